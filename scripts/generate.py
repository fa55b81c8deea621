"""Generate images: `python scripts/generate.py --classes "golden retriever" 417 --seeds 0:8 --out FOLDER`.

One PNG for each class and seed, its settings inside. Run it again, or with more seeds, and only the missing
ones are generated. Over several GPUs or processes: `torchrun --nproc-per-node 4 scripts/generate.py …`.
"""

from __future__ import annotations

import argparse

from tqdm import tqdm

from randar_features.command_line import run_command
from randar_features.data import contact_sheet, load_image, to_image, to_tensor
from randar_features.generation.command_line import (
    add_arguments,
    load_for_decoding,
    rank_and_ranks,
    settings_of,
    wait_for_all,
)
from randar_features.generation.gallery import Wanted, fill_gallery, find_classes, save_sheet


def main() -> None:
    args = parse()
    rank, ranks = rank_and_ranks()
    model = load_for_decoding(args.model, args.device, args.weights)
    names, number = model.classes, model.transformer.config.num_classes
    classes = find_classes(args.classes, names, number) if args.classes else range(min(8, number))
    wanted = [Wanted(index, seed) for index in classes for seed in args.seeds]
    mine = wanted[rank::ranks]
    with tqdm(total=len(mine), unit="image", disable=rank > 0) as bar:
        for count in fill_gallery(
            model,
            mine,
            args.out,
            {**settings_of(args, model.transformer), "scale": args.scale},
            notes={"number_format": args.weights},
            batch_size=args.batch_size,
            overwrite=args.overwrite,
        ):
            bar.update(count)
    if not args.sheet:
        return
    wait_for_all(ranks)
    if rank == 0:
        images = [to_tensor(load_image(args.out / one.filename)) for one in wanted]
        sheet = to_image(contact_sheet(images, columns=len(args.seeds)))
        save_sheet(args.out / "sheet.png", sheet, args.overwrite)
        print(f"{args.out / 'sheet.png'}: a row for each class, a column for each seed")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", nargs="+", help="names or indices; default: the first eight")
    parser.add_argument("--sheet", action="store_true", help="also write sheet.png, all images side by side")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--scale", type=int, choices=(1, 2), default=1, help="2: twice the resolution")
    add_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
