"""Edit an image: `python scripts/edit.py inpaint photo.jpg --box 16 16 48 48 --class 207 --out FOLDER`.

inpaint   redraws what --box or --mask covers, seeing the rest, which stays as it is. The image is cropped
          to a square of the model's size first.
outpaint  draws beyond the edges: `outpaint photo.png --padding 32 0 32 0`, the image as it is.
upscale   draws it at twice the resolution, between its own tokens.

One PNG for each seed, its settings inside, and NAME_EDIT_strip.png: the image and its versions. Under torchrun
the processes share the seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import randar_features as rf
from randar_features.command_line import run_command
from randar_features.data import adm_center_crop, contact_sheet, load_image, to_image, to_tensor
from randar_features.generation.command_line import (
    add_arguments,
    load_for_decoding,
    rank_and_ranks,
    settings_of,
    wait_for_all,
)
from randar_features.generation.gallery import find_class, is_done, save_png, save_sheet
from randar_features.hub.weights import file_hash


def main() -> None:
    args = parse()
    model = load_for_decoding(args.model, args.device, args.weights)
    index = None
    if args.class_name is not None:
        index = find_class(args.class_name, model.classes, model.transformer.config.num_classes)
    image = load_image(args.image)
    if args.edit != "outpaint":
        image = adm_center_crop(image, model.image_size)
    pixels, (rank, ranks) = to_tensor(image), rank_and_ranks()
    name = f"{args.image.stem}_{args.edit}"
    paths = {seed: args.out / f"{name}_{'null' if index is None else index}_seed{seed:06d}.png" for seed in args.seeds}
    for seed, path in tqdm(list(paths.items())[rank::ranks], unit="image", disable=rank > 0):
        about = {**notes_of(args, model), **settings_of(args, model.transformer), "class": index, "seed": seed}
        if args.overwrite or not is_done(path, about):
            save_png(path, to_image(edit(args, model, pixels, index, seed)), about)
    wait_for_all(ranks)
    if rank == 0:
        versions = [to_tensor(load_image(path)) for path in paths.values()]
        save_sheet(args.out / f"{name}_strip.png", strip(pixels, versions), args.overwrite)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    edits = parser.add_subparsers(dest="edit", required=True)
    inpaint, outpaint, upscale = (edits.add_parser(name) for name in ("inpaint", "outpaint", "upscale"))
    area = inpaint.add_mutually_exclusive_group(required=True)
    sides = ("LEFT", "TOP", "RIGHT", "BOTTOM")
    area.add_argument("--box", type=int, nargs=4, metavar=sides, help="pixels of the cropped image")
    area.add_argument("--mask", type=Path, help="a picture, white where to draw anew; cropped as the image")
    outpaint.add_argument("--padding", type=int, nargs=4, metavar=sides, required=True, help="pixels to add")
    for command in (inpaint, outpaint, upscale):
        command.add_argument("image", type=Path)
        command.add_argument("--class", dest="class_name", help="name or index of what to draw; default: none")
        add_arguments(command)
    return parser.parse_args()


def edit(args: argparse.Namespace, model: rf.Model, pixels: Tensor, index: int | None, seed: int) -> Tensor:
    """One version of the image (3, H, W)."""
    settings = {**settings_of(args, model.transformer), "generator": torch.tensor([seed])}
    if args.edit == "inpaint":
        return rf.inpaint(model, pixels[None], mask_of(args, model.image_size), index, **settings)[0]
    if args.edit == "outpaint":
        return rf.outpaint(model, pixels[None], tuple(args.padding), index, **settings)[0]
    null = model.transformer.config.num_classes
    tokens = model.tokenizer.encode(pixels[None].to(model.device))
    fine = rf.upscale_tokens(model.transformer, null if index is None else index, tokens=tokens, **settings)
    return model.tokenizer.decode(fine)[0].cpu()


def mask_of(args: argparse.Namespace, size: int) -> Tensor:
    """(S, S) boolean, True where to draw anew."""
    if args.mask is not None:
        return to_tensor(adm_center_crop(load_image(args.mask), size)).mean(dim=0) > 0.5
    left, top, right, bottom = args.box
    if not (0 <= left < right <= size and 0 <= top < bottom <= size):
        raise ValueError(f"--box must lie in the image of {size}×{size} pixels, LEFT TOP RIGHT BOTTOM; got {args.box}")
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def notes_of(args: argparse.Namespace, model: rf.Model) -> dict[str, Any]:
    """What an edit depends on besides the settings, the class and the seed."""
    area = {name: getattr(args, name, None) for name in ("box", "padding")}
    mask = getattr(args, "mask", None)
    return {
        "model": model.name,
        "weights": model.weights_hash,
        "number_format": args.weights,
        "edit": args.edit,
        "image": fingerprint(args.image),
        **area,
        "mask": None if mask is None else fingerprint(mask),
    }


def fingerprint(path: Path) -> str:
    """A file by its name and content, wherever it lies."""
    return f"{path.name} {file_hash(path)[:16]}"


def strip(pixels: Tensor, versions: list[Tensor]) -> Any:
    """The image, on grey of the versions' size, and the versions side by side."""
    shown = torch.full_like(versions[0], 0.5)
    top, left = ((a - b) // 2 for a, b in zip(shown.shape[1:], pixels.shape[1:], strict=True))
    shown[:, top : top + pixels.shape[1], left : left + pixels.shape[2]] = pixels
    return to_image(contact_sheet([shown, *versions], columns=1 + len(versions)))


if __name__ == "__main__":
    run_command(main)
