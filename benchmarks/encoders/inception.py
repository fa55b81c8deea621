"""The Inception network of FID, through torch-fidelity: `inception`, or `inception=FILE` for a file of its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.encoders.base import Encoder
from randar_features.hub import choose_device
from randar_features.hub.weights import file_hash, read_state_dict

NAME = "inception"
SIZE = 299
SPATIAL_CHANNELS = 7
Variant = Literal["adm", "torch-fidelity", "clean-fid"]
POOL, SPATIAL, CLASSES = "pool", "spatial", "probabilities"
OUTPUTS: dict[Variant, tuple[str, ...]] = {
    "adm": (POOL, SPATIAL, CLASSES),
    "torch-fidelity": (POOL, CLASSES),
    "clean-fid": (POOL,),
}
"""What each variant measures by."""


def is_inception(name: str) -> bool:
    """Whether a name means this network."""
    return name.partition("=")[0] == NAME


class InceptionEncoder(Encoder):
    """Inception-v3 of 2015 with TensorFlow's weights, as the variants of FID use it.

    Outputs: "pool" (2048), features of FID; "spatial" (17·17·7 = 2023), the first 7 channels of the first branch of
    the block that ADM calls mixed_6, location by location, features of sFID; "probabilities" (1008), the softmax of
    the logits without their bias. "adm" and "torch-fidelity" resize images as TensorFlow 1 did, bilinearly without
    half-pixel centres; "clean-fid" by Pillow's bicubic filter in floats. A variant has the outputs that it measures by.

    Args:
        name: `inception` or `inception=FILE`.
        variant: whose resize.
        image_size: S of the images that it is given, which it resizes itself.
        device: None: CUDA where there is one.

    Raises:
        ModuleNotFoundError: torch-fidelity is not installed.
        FileNotFoundError: the weights are not on this machine.
        ValueError: a file of weights that is damaged, or of another network.
    """

    def __init__(self, name: str, variant: Variant, image_size: int, device: torch.device | str | None = None) -> None:
        file = weights_file(name)
        self.network, self.variant = _build(file).to(choose_device(device)), variant
        self._branch: list[Tensor] = []
        self.network.Mixed_6d.branch1x1.register_forward_hook(lambda *call: self._branch.append(call[2]))
        super().__init__(
            name=f"{NAME} ({variant})",
            image_size=image_size,
            weights=file_hash(file)[:16],
            outputs={output: {"layer": 0} for output in OUTPUTS[variant]},
            device=next(self.network.parameters()).device,
            supervision="trained with ImageNet's labels",
        )

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        self._branch.clear()
        pixels = images.mul(255).round().to(torch.uint8)
        pool, logits = self._clean(pixels) if self.variant == "clean-fid" else self.network(pixels)
        branch = self._branch.pop()[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        found = {POOL: pool, SPATIAL: branch, CLASSES: logits.softmax(-1)}
        return {output: found[output][:, None, None] for output in outputs}

    def _clean(self, pixels: Tensor) -> Any:
        """The network on images resized here; its own resize is given one pixel, and passed by."""
        resized = torch.stack([resize_clean(one) for one in pixels]).to(pixels.device)
        scaled = (resized - 128) / 128
        hook = self.network.Conv2d_1a_3x3.register_forward_pre_hook(lambda *_: (scaled,))
        try:
            return self.network(pixels[:, :, :1, :1])
        finally:
            hook.remove()


def resize_clean(pixels: Tensor) -> Tensor:
    """clean-fid's resize: uint8 (3, H, W) to float (3, 299, 299) in 0 … 255, each channel by Pillow in floats."""
    channels = [Image.fromarray(channel) for channel in pixels.cpu().numpy().astype(np.float32)]
    resized = [np.asarray(channel.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for channel in channels]
    return torch.from_numpy(np.stack(resized).clip(0, 255))


def weights_file(name: str) -> Path:
    """The file that a name means; FileNotFoundError says which file goes where."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Inception's network is torch-fidelity's: pip install 'randar-features[fid]'"
        ) from None
    given = name.partition("=")[2]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    file = Path(given) if given else cached
    if not file.is_file():
        raise FileNotFoundError(
            f"the weights of Inception are not at {file}: fetch {URL_INCEPTION_V3}, and put the file {cached.name} "
            f"into {cached.parent}, or give its place as {NAME}=FILE; without it, efficientnet-lite0 of the extra "
            "'baselines' gives FD-EfficientNet-Lite0, which is no FID"
        )
    return file


def _build(file: Path) -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    read_state_dict(file)  # torch-fidelity would run code that is in a pickle
    try:
        return FeatureExtractorInceptionV3(NAME, ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file))
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} does not hold the weights of Inception as torch-fidelity has them: {text}") from error
