"""Animate decoding orders side by side: `python scripts/animate_orders.py --class cat --seed 3 --out orders.gif`."""

from __future__ import annotations

import argparse
from pathlib import Path

from randar_features.command_line import run_command
from randar_features.data import contact_sheet
from randar_features.generation.animation import decoding_frames, save_gif
from randar_features.generation.command_line import load_for_decoding
from randar_features.generation.complete import ORDERS, known_orders
from randar_features.generation.gallery import find_class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="randar-tiny", help="a name, or a folder that training wrote")
    parser.add_argument("--class", dest="class_name", default="0", help="name or index")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--orders", nargs="+", choices=ORDERS, help="default: all that the model knows")
    parser.add_argument("--steps", type=int, help="default: as recommended; -1: one token a step")
    parser.add_argument("--out", type=Path, required=True, help="GIF file")
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--device", help="default: CUDA where there is one")
    args = parser.parse_args()

    if args.out.exists() and not args.overwrite:
        raise FileExistsError(f"{args.out} is there: give another name, or --overwrite")
    model = load_for_decoding(args.model, args.device, "float32")
    index = find_class(args.class_name, model.classes, model.transformer.config.num_classes)
    names = args.orders or known_orders(model.transformer)
    columns = [decoding_frames(model, index, seed=args.seed, order=name, steps=args.steps) for name in names]
    save_gif(args.out, [contact_sheet(row, columns=len(columns)) for row in zip(*columns, strict=True)])
    print(f"{args.out}: {', '.join(name or 'its only order' for name in names)}")


if __name__ == "__main__":
    run_command(main)
