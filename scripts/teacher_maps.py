"""A frozen network's maps of the training images: `python scripts/teacher_maps.py --tokens TOKENS --data IMAGES`.

Training aligns a block of the generator to them, `scripts/train_randar.py … auxiliary.alignment.weight=0.5`. The maps
go to TOKENS/teacher, 192 numbers of float16 a location; run it again to continue.

  --network efficientnet-lite0@256      another input size, so another grid of the maps, or any name of
                                        `randar_features.baselines`
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from randar_features.baselines import load_network
from randar_features.command_line import run_command
from randar_features.data.token_store import TokenStore
from randar_features.hub import choose_device
from randar_features.training.teacher_maps import write_teacher_maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, required=True, help="the folder with `train`")
    parser.add_argument("--data", required=True, help="the images that the tokens were made of")
    parser.add_argument("--network", default="efficientnet-lite0@128", help="the teacher, and its input size")
    parser.add_argument("--out", type=Path, help="default: TOKENS/teacher")
    parser.add_argument("--channels", type=int, default=192, help="numbers kept of each location")
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that decode images")
    parser.add_argument("--device", help="left out: a GPU where there is one, or else the CPU")
    args = parser.parse_args()

    device = choose_device(args.device)
    network = load_network(args.network, device)

    def maps(pixels: Tensor) -> Tensor:
        """(b, 3, S, S) → (b, g, g, C), the last features before pooling."""
        return network.module.forward_features(network.scale(pixels.to(device))).permute(0, 2, 3, 1)

    folder = args.out or args.tokens / "teacher"
    write_teacher_maps(
        maps,
        {"network": network.name, "weights": network.weights, "supervision": network.supervision},
        args.data,
        TokenStore(args.tokens / "train"),
        folder,
        image_size=network.image_size,
        split="train",
        channels=args.channels,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
    )
    print(f"{folder}: done")


if __name__ == "__main__":
    run_command(main)
