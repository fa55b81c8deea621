"""A frozen network's maps of the training images: `python scripts/teacher_maps.py --tokens TOKENS --data IMAGES`.

`--network latents` takes what the tokens' own tokenizer gives before quantisation. Training aligns a block of the
generator to the maps: `randar train transformer … auxiliary.alignment.weight=0.5`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from randar_features.baselines import load_network
from randar_features.data.decode.ranges import Reading
from randar_features.data.token_store import TokenStore
from randar_features.hub import choose_device, load_tokenizer
from randar_features.options.command import run
from randar_features.options.shared import DeviceOptions
from randar_features.options.types import Count, Natural
from randar_features.tokenizers.folder import tokenizer_hash
from randar_features.training.auxiliary.teacher_maps import Network, write_teacher_maps

LATENTS = "latents"


@dataclass(frozen=True, kw_only=True)
class TeacherOptions(DeviceOptions, Reading):
    """Write a frozen network's maps of the training images, 192 numbers of float16 a location.

    Run it again to continue.

    Attributes:
        tokens: folder with `train`.
        data: the images that the tokens were made of.
        network: the teacher and its input size, which decides the grid of the maps; any of the baselines, or
            the model folder of scripts/train_network.py; or "latents": the latents of the tokens' own tokenizer.
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
    store = TokenStore(options.tokens / "train")
    maps, about, image_size = load_teacher(options, store)
    folder = options.out or options.tokens / "teacher"
    write_teacher_maps(
        maps,
        about,
        options.data,
        store,
        folder,
        image_size=image_size,
        split="train",
        channels=options.channels,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        reading=options.reading,
    )
    print(f"{folder}: done")


def load_teacher(options: TeacherOptions, store: TokenStore) -> tuple[Network, dict[str, Any], int]:
    """What gives the maps, its name and weights, and the side in pixels of the images that it sees."""
    device = choose_device(options.device)
    if options.network == LATENTS:
        if store.tokenizer is None:
            raise ValueError(f"--network {LATENTS}: {options.tokens} has no folder `tokenizer`, which made its tokens")
        tokenizer, image_size = load_tokenizer(store.tokenizer, device)
        if (found := tokenizer_hash(tokenizer)) != (expected := store.manifest["tokenizer"]):
            raise ValueError(f"{store.tokenizer} holds tokenizer {found}, but the tokens were made by {expected}")
        about = {"network": LATENTS, "weights": found}
        return lambda pixels: tokenizer.latents(pixels.to(device)).permute(0, 2, 3, 1), about, image_size
    network = load_network(options.network, device)
    about = {"network": network.name, "weights": network.weights, "supervision": network.supervision}

    def maps(pixels: Tensor) -> Tensor:
        """(b, 3, S, S) → (b, g, g, C), the last features before pooling."""
        return network.module.forward_features(network.scale(pixels.to(device))).permute(0, 2, 3, 1)

    return maps, about, network.image_size


if __name__ == "__main__":
    raise SystemExit(run(write, TeacherOptions))
