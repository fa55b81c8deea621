"""The published models: names, sizes, and the files of their weights.

Published files are taken from the branch "main" of their repositories, at the commit that is current when they
are first downloaded; from then on the cached ones are used. A commit to pin them to cannot be looked up
without a connection, so none is written here: `name@revision` pins the transformer, and a loaded `Model`
names the commits it came from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from randar_features.hub.files import HubFile, HubUnreachableError, WeightsFile, download
from randar_features.hub.weights import USUAL_KEY


@dataclass(frozen=True)
class ModelSource:
    """A model before it is loaded.

    Attributes:
        name: as shown to the user.
        config: as in a folder's config.json.
        files: of the weights, by "transformer" and "tokenizer".
        classes: a name each class, "imagenet" for ImageNet's, or None.
        of_user: whether the configuration is a file of the user's, not a part of this package.
        parameters: of a published transformer, since counting them would mean building it; else None.
    """

    name: str
    config: Mapping[str, Any]
    files: Mapping[str, HubFile | WeightsFile]
    classes: list[str] | Literal["imagenet"] | None = None
    of_user: bool = False
    parameters: int | None = None

    def fetch(self, part: str) -> WeightsFile:
        """The file of the transformer's or the tokenizer's weights, downloaded if need be.

        Raises:
            HubUnreachableError: there is no connection; the message names the files to download by hand.
        """
        file = self.files[part]
        if not isinstance(file, HubFile):
            return file
        try:
            return download(file)
        except HubUnreachableError as error:
            addresses = " and ".join(one.address for one in self.files.values() if isinstance(one, HubFile))
            raise HubUnreachableError(
                f"{error}: on a machine with a connection download {addresses}, put the files under their own names "
                "into one folder, and give the path of the folder instead of the name"
            ) from error


SIZES = {  # layers, heads, width
    "b": (12, 12, 768),
    "l": (24, 16, 1024),
    "xl": (36, 20, 1280),
    "xxl": (48, 24, 1536),
    "3b": (24, 32, 3200),
}
TOKENIZERS = {  # codes, file
    "llamagen": (16384, HubFile("FoundationVision/LlamaGen", "vq_ds16_c2i.pt", key="model")),
    "maskgit": (1024, HubFile("fun-research/TiTok", "maskgit-vqgan-imagenet-f16-256.bin")),
}


def _published(
    name: str, kind: str, size: str, file: HubFile, count: int, *, tokenizer: str = "llamagen", pixels: int = 256
) -> ModelSource:
    """A model of ImageNet's 1000 classes, 16 × 16 pixels a token."""
    layers, heads, dim = SIZES[size]
    vocab_size, tokenizer_file = TOKENIZERS[tokenizer]
    transformer = {
        "type": kind,
        "num_layers": layers,
        "num_heads": heads,
        "dim": dim,
        "vocab_size": vocab_size,
        "num_tokens": (pixels // 16) ** 2,
        "num_classes": 1000,
    }
    config = {"transformer": transformer, "tokenizer": {"type": tokenizer}, "image_size": pixels}
    return ModelSource(name, config, {"transformer": file, "tokenizer": tokenizer_file}, "imagenet", parameters=count)


def _randar(size: str, tokenizer: str, parameters: str, count: int) -> ModelSource:
    file = HubFile("ziqipang/RandAR", f"randar_{parameters}_{tokenizer}_360k_bs_1024_lr_0.0004.safetensors")
    return _published(f"randar-{size}-{tokenizer}", "randar", size, file, count, tokenizer=tokenizer)


def _llamagen(size: str, pixels: int, count: int) -> ModelSource:
    name = f"llamagen-{size}" if pixels == 256 else f"llamagen-{size}-{pixels}"
    file = HubFile("FoundationVision/LlamaGen", f"c2i_{size.upper()}_{pixels}.pt", key="model")
    return _published(name, "llamagen", size, file, count, pixels=pixels)


def _par(size: str, count: int) -> ModelSource:
    file = HubFile("Epiphqny/PAR", f"PAR-{size.upper()}-4x.pt", key="model")
    return _published(f"par-{size}-4x", "par", size, file, count, pixels=384)


def _arpg(size: str, parameters: str, count: int) -> ModelSource:
    # USUAL_KEY takes the weights where they stand alone and where they stand under a key.
    file = HubFile("hp-l33/ARPG", f"arpg_{parameters}.pt", key=USUAL_KEY)
    return _published(f"arpg-{size}", "arpg", size, file, count)


PUBLISHED = {
    source.name: source
    for source in (
        _randar("l", "llamagen", "0.3b", 342_912_000),
        _randar("l", "maskgit", "0.3b", 311_454_720),
        _randar("xl", "llamagen", "0.7b", 774_700_800),
        _llamagen("b", 256, 110_888_448),
        _llamagen("l", 256, 342_910_976),
        _llamagen("b", 384, 110_888_448),
        _llamagen("l", 384, 342_910_976),
        _llamagen("xl", 384, 774_699_520),
        _llamagen("xxl", 384, 1_410_972_672),
        _par("xl", 774_703_360),
        _par("xxl", 1_410_977_280),
        _par("3b", 3_096_668_800),
        _arpg("l", "300m", 319_845_376),
        _arpg("xl", "700m", 718_997_760),
        _arpg("xxl", "1b", 1_302_449_664),
    )
}
ALIASES = {
    "randar-l": "randar-l-llamagen",
    "randar-xl": "randar-xl-llamagen",
    "llamagen-xl": "llamagen-xl-384",
    "llamagen-xxl": "llamagen-xxl-384",
}
