"""A frozen network's maps of the training images: `python scripts/teacher_maps.py --tokens TOKENS --data IMAGES`.

Training aligns a block of the generator to them: `randar train transformer … auxiliary.alignment.weight=0.5`.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from randar_features.baselines import load_network
from randar_features.cli.options import DeviceOptions
from randar_features.cli.parse import Count, Natural, run
from randar_features.data.ranges import Reading
from randar_features.data.token_store import TokenStore
from randar_features.hub import choose_device
from randar_features.training.teacher_maps import write_teacher_maps


@dataclass(frozen=True, kw_only=True)
class TeacherOptions(DeviceOptions, Reading):
    """Write a frozen network's maps of the training images, 192 numbers of float16 a location.

    Run it again to continue.

    Attributes:
        tokens: folder with `train`.
        data: the images that the tokens were made of.
        network: the teacher and its input size, which decides the grid of the maps; any of the baselines, or
            the model folder of scripts/train_network.py.
        out: folder of the maps; none: TOKENS/teacher.
        channels: numbers kept of each location.
        batch_size: images in one forward pass.
        num_workers: processes that decode images; 0: this one.
    """

    tokens: Path
    data: str
    network: str = "efficientnet-lite0@128"
    out: Path | None = None
    channels: Count = 192
    batch_size: Count = 16
    num_workers: Natural = 0


def write(options: TeacherOptions) -> None:
    """Write the maps that are missing."""
    device = choose_device(options.device)
    network = load_network(options.network, device)

    def maps(pixels: Tensor) -> Tensor:
        """(b, 3, S, S) → (b, g, g, C), the last features before pooling."""
        return network.module.forward_features(network.scale(pixels.to(device))).permute(0, 2, 3, 1)

    folder = options.out or options.tokens / "teacher"
    write_teacher_maps(
        maps,
        {"network": network.name, "weights": network.weights, "supervision": network.supervision},
        options.data,
        TokenStore(options.tokens / "train"),
        folder,
        image_size=network.image_size,
        split="train",
        channels=options.channels,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        reading=options.reading,
    )
    print(f"{folder}: done")


def main() -> int:
    """The command line."""
    return run(write, TeacherOptions)


if __name__ == "__main__":
    raise SystemExit(main())
