"""A network for a `NetworkTokenizer`: the first stages of a timm network, trained on labels."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from randar_features.baselines import OWN_WEIGHTS
from randar_features.data.pixels import PixelCache
from randar_features.options.types import Count, Natural, NonNegative, Positive, Share, check_ranges
from randar_features.store.files import write_json, written_whole
from randar_features.training.batches import batch_indices, step_generator
from randar_features.training.loop import LoopConfig, Trainer
from randar_features.training.optimizer import load_moments, rate_multiplier
from randar_features.training.tokenizer.trainer import weigh_chroma

AREA, ASPECT = (0.5, 1.0), 0.29  # of a crop: share of the image, and the largest logarithm of width over height
COARSE, COARSE_SHARE = (24, 48), 0.3  # pixels a side to which a batch is reduced, as enlarged small images look
BRIGHTNESS, CONTRAST, SATURATION = 0.1, 0.2, 0.3


@dataclass(frozen=True, kw_only=True)
class NetworkTrainingConfig:
    """Which network, the recipe, the intervals of the loop.

    Attributes:
        architecture: a name of timm.
        stage: the deepest stage that is trained, as timm counts them; a linear classifier sees its mean.
        image_size: pixels a side of the images.
        small_size: pixels a side of the crops in the first steps.
        small_share: share of the steps with such crops.
        total_steps: training steps until the run is done.
        batch_size: images in a step.
        learning_rate: the highest, after the warm-up, of stochastic gradient descent.
        momentum: of Nesterov's kind.
        warmup_steps: steps in which the learning rate rises.
        weight_decay: of matrices and filters.
        label_smoothing: share of the target that all classes have alike.
        seed: of every random choice.
    """

    architecture: str = "regnetx_004"
    stage: Natural = 3
    image_size: Count = 64
    small_size: Count = 48
    small_share: Share = 0.7
    total_steps: Count = 7000
    batch_size: Count = 128
    learning_rate: Positive = 0.25
    momentum: Share = 0.9
    warmup_steps: Natural = 300
    weight_decay: NonNegative = 1e-4
    label_smoothing: Share = 0.05
    seed: int = 0
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_ranges(self)
        if not timm.is_model(self.architecture):
            raise ValueError(f"architecture = {self.architecture!r}: timm has no model of that name")


class LabelledStages(nn.Module):
    """Stages of a timm network and a linear classifier of the mean of the last: (B, 3, H, W) to (B, classes)."""

    def __init__(self, architecture: str, stage: int, classes: int) -> None:
        super().__init__()
        network: Any = timm.create_model(architecture, num_classes=0)
        if not 0 <= stage < len(network.feature_info):
            raise ValueError(f"stage = {stage}: {architecture} has the stages 0 to {len(network.feature_info) - 1}")
        network.prune_intermediate_layers([stage], prune_norm=True, prune_head=True)
        self.network, self.stage = network, stage
        self.head = nn.Linear(network.feature_info[stage]["num_chs"], classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels in [−1, 1]."""
        network: Any = self.network
        maps = network.forward_intermediates(pixels, indices=[self.stage], intermediates_only=True)
        return self.head(maps[-1].mean((2, 3)))


class NetworkTrainer(Trainer):
    """Trains `LabelledStages` on cached pixels and their labels; see `training.loop.run`."""

    def __init__(self, config: NetworkTrainingConfig, train: PixelCache, validation: PixelCache) -> None:
        if min(int(train.labels.min()), int(validation.labels.min())) < 0:
            raise ValueError("images without a label: a network is trained by the classes of its images")
        self.config, self.train, self.validation = config, train, validation
        torch.manual_seed(config.seed)
        classes = int(train.labels.max()) + 1
        self.model = LabelledStages(config.architecture, config.stage, classes).to(memory_format=torch.channels_last)
        weights = [weight for weight in self.model.parameters() if weight.ndim > 1]
        others = [weight for weight in self.model.parameters() if weight.ndim < 2]
        self.optimizer = torch.optim.SGD(
            [{"params": weights, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.learning_rate, momentum=config.momentum, nesterov=True,
        )  # fmt: skip

    def train_step(self, step: int) -> dict[str, float]:
        """One update on batch `step`."""
        config, generator = self.config, step_generator(self.config.seed, step)
        size = config.small_size if step < config.small_share * config.total_steps else config.image_size
        indices = batch_indices(step, batch_size=config.batch_size, size=len(self.train), seed=config.seed)
        pixels = augmented(self.train.images(indices) * 2 - 1, size, generator)
        rate = config.learning_rate * rate_multiplier(
            step + 1, warmup=config.warmup_steps, total=config.total_steps, floor=0.0
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        labels = self.train.labels[indices]
        loss = F.cross_entropy(self.model(pixels), labels, label_smoothing=config.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """`validation_accuracy`, from 0 to 1."""
        self.model.eval()
        right = 0
        for rows in torch.arange(len(self.validation), device="cpu").split(256):
            pixels = self.validation.images(rows).contiguous(memory_format=torch.channels_last)
            right += int((self.model(pixels * 2 - 1).argmax(1) == self.validation.labels[rows]).sum())
        return {"validation_accuracy": right / len(self.validation)}

    def settings(self) -> dict[str, Any]:
        """The configuration, and which images are trained on."""
        return asdict(self.config) | {"data": {"images": len(self.train), "content": self.train.content}}

    def state_dict(self) -> dict[str, Any]:
        """Weights, statistics and momenta."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.model.load_state_dict(state["model"])
        load_moments(self.optimizer, state["optimizer"])

    def export(self, folder: Path) -> None:
        """Write the stages, without the classifier, as `load_network` reads them."""
        with written_whole(folder / OWN_WEIGHTS) as file:
            file.write(save({name: value.contiguous() for name, value in self.model.network.state_dict().items()}))
        config = self.config
        about = {"architecture": config.architecture, "stage": config.stage, "image_size": config.image_size}
        write_json(folder / "config.json", about | {"training": self.settings()})


def augmented(pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Crops (B, 3, size, size) of pixels (B, 3, H, W) in [−1, 1], half of them mirrored, in other light and colour.

    A share of the batches is reduced first, so that small images which were enlarged look familiar.
    """

    def drawn(low: float, high: float) -> Tensor:
        return torch.rand(len(pixels), generator=generator, device="cpu") * (high - low) + low

    area, aspect = drawn(*AREA), drawn(-ASPECT, ASPECT).exp()
    width, height = ((area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1))
    window = torch.zeros(len(pixels), 2, 3, device="cpu")
    window[:, 0, 0] = torch.where(drawn(0, 1) < 0.5, width, -width)
    window[:, 1, 1] = height
    window[:, 0, 2], window[:, 1, 2] = (1 - width) * drawn(-1, 1), (1 - height) * drawn(-1, 1)
    if torch.rand((), generator=generator, device="cpu") < COARSE_SHARE:
        side = int(torch.randint(*COARSE, (), generator=generator, device="cpu"))
        pixels = F.interpolate(pixels, size=(side, side), mode="area")
    grid = F.affine_grid(window, [len(pixels), 3, size, size], align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    light = drawn(1 - CONTRAST, 1 + CONTRAST), drawn(-BRIGHTNESS, BRIGHTNESS)
    pixels = pixels * light[0][:, None, None, None] + light[1][:, None, None, None]
    pixels = weigh_chroma(pixels, drawn(1 - SATURATION, 1 + SATURATION)[:, None, None, None])
    return pixels.contiguous(memory_format=torch.channels_last)
