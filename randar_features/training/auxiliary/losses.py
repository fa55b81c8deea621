"""The losses beside next-token prediction, joined: their heads, their targets, and the pass that gives them all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from randar_features.hub.weights import build_empty
from randar_features.models import ImageTransformer, LlamaGen, RandAR, middle_layer, token_cross_entropy
from randar_features.models.base import context_of
from randar_features.training.auxiliary.config import AuxiliaryConfig
from randar_features.training.auxiliary.heads import Alignment, ClassHead, SelfDistillation, alignment_target
from randar_features.training.auxiliary.showing import Features, show
from randar_features.training.auxiliary.teacher_maps import TeacherMaps

NEXT_TOKEN = "loss"


@dataclass(frozen=True)
class Plan:
    """Which losses a training takes, with their weights, and at which blocks and tokens.

    Attributes:
        config: the options.
        reads: the tokens.
        weights: of each loss by its name in the log; 1 for next-token prediction.
        layers: the block whose features each of the other losses reads.
        teacher_layer: the block of the averaged model that teaches.
    """

    config: AuxiliaryConfig
    reads: Sequence[str]
    weights: dict[str, float]
    layers: dict[str, int]
    teacher_layer: int


def make_plan(config: AuxiliaryConfig, transformer: ImageTransformer) -> Plan:
    """`config` with its open choices made for a model; ValueError for what the model does not have."""
    if not isinstance(transformer, RandAR | LlamaGen):
        raise ValueError(
            f"auxiliary: {type(transformer).__name__} takes no losses beside next-token prediction, RandAR and "
            "LlamaGen do: set the weights to 0"
        )
    reads = tuple(transformer.reads if config.reads is None else config.reads)
    for read in reads:
        context_of(transformer, config.context if config.second_showing else "single", read)
    middle, count = middle_layer(transformer, reads[0]), transformer.config.num_layers
    chosen = {
        "alignment.layer": (config.alignment.layer, middle),
        "self_distillation.student_layer": (config.self_distillation.student_layer, min(middle, max(count - 3, 0))),
        "self_distillation.teacher_layer": (config.self_distillation.teacher_layer, max(count - 2, 0)),
        "class_head.layer": (config.class_head.layer, middle),
    }
    layers = {name: default if given is None else given for name, (given, default) in chosen.items()}
    for name, layer in layers.items():
        if layer >= count:
            raise ValueError(f"auxiliary.{name} = {layer}, but the model has the blocks 0 … {count - 1}")
    losses = {
        "alignment_loss": (config.alignment.weight, layers["alignment.layer"]),
        "self_distillation_loss": (config.self_distillation.weight, layers["self_distillation.student_layer"]),
        "class_loss": (config.class_head.weight, layers["class_head.layer"]),
    }
    taken = {name: both for name, both in losses.items() if both[0]}
    weights = {NEXT_TOKEN: 1.0} | {name: weight for name, (weight, _) in taken.items()}
    read_at = {name: layer for name, (_, layer) in taken.items()}
    return Plan(config, reads, weights, read_at, layers["self_distillation.teacher_layer"])


class TrainingPass(nn.Module):
    """A transformer and the heads of the losses, whose forward pass gives all of them.

    Args:
        transformer: is trained.
        plan: what is taken where.
        channels: of the teacher's maps; None without alignment.
        seed: of the heads' first weights.
    """

    def __init__(self, transformer: RandAR | LlamaGen, plan: Plan, channels: int | None, seed: int) -> None:
        super().__init__()
        self.transformer, self.plan = transformer, plan
        sizes, weights = transformer.config, plan.weights
        heads: dict[str, nn.Module] = {}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would set those of GPUs too
            if "alignment_loss" in weights:
                assert channels is not None  # the trainer sees to it
                heads["alignment_loss"] = Alignment(sizes.dim, channels, sizes.grid, plan.reads)
            if "self_distillation_loss" in weights:
                heads["self_distillation_loss"] = SelfDistillation(sizes.dim, plan.reads)
            if "class_loss" in weights:
                heads["class_loss"] = ClassHead(sizes.dim, sizes.num_classes, plan.reads)
        self.heads = nn.ModuleDict(heads).to(transformer.device)

    def forward(
        self,
        tokens: Tensor,
        classes: Tensor,
        order: Tensor,
        context: str,
        labels: Tensor,
        targets: Mapping[str, object],
        share: float | None = None,
    ) -> dict[str, Tensor]:
        """Each loss by its name, not weighted.

        Args:
            tokens: (B, N); classes: (B,) as the model is given them; order: (B or 1, N).
            context: how the images are shown.
            labels: (B,) as the class head is to find them, −1 where it is not to.
            targets: of `targets`.
            share: of images with such a label in the whole batch; None: in these.
        """
        plan = self.plan
        states, features = show(
            self.transformer, tokens, classes, order,
            context=context, reads=plan.reads, layers=set(plan.layers.values()),
        )  # fmt: skip
        assert states is not None
        losses = {NEXT_TOKEN: token_cross_entropy(self.transformer, states, tokens, order)}
        for name, target in targets.items():
            losses[name] = self.heads[name](features[plan.layers[name]], target)
        if "class_loss" in self.heads:
            losses["class_loss"] = self.heads["class_loss"](features[plan.layers["class_loss"]], labels, share)
        return losses


class Targets:
    """What the losses' targets are computed from: a teacher's maps, and the averaged model.

    Args:
        plan: what is taken where.
        average: weights by name that follow the trained ones; read in each step, without a copy.
        transformer: of the same architecture.
        maps: of the training images; None without alignment.
    """

    def __init__(
        self, plan: Plan, average: Mapping[str, Tensor], transformer: RandAR | LlamaGen, maps: TeacherMaps | None
    ) -> None:
        self.plan, self.maps = plan, maps
        self.teacher = None
        if "self_distillation_loss" in plan.weights:
            architecture: Any = type(transformer)
            self.teacher = build_empty(lambda: architecture(transformer.config)).to(transformer.device)
            self.teacher.trained_order = transformer.trained_order
            self.teacher.load_state_dict(average, assign=True)  # the average's own memory, which follows its updates
            self.teacher.requires_grad_(False).eval()

    @torch.no_grad()
    def of(self, tokens: Tensor, order: Tensor, images: Tensor, crops: Tensor) -> dict[str, Tensor | Features]:
        """The targets of some crops (B,) of training images (B,), whose tokens (B, N) are shown in an order."""
        targets: dict[str, Tensor | Features] = {}
        if "alignment_loss" in self.plan.weights:
            assert self.maps is not None
            maps = self.maps.batch(images, crops).to(tokens.device)
            grid = int(tokens.shape[1] ** 0.5)
            targets["alignment_loss"] = alignment_target(maps, grid, self.plan.config.alignment.removed_mean)
        if self.teacher is not None:
            layer = self.plan.teacher_layer
            shown = show(
                self.teacher, tokens, None, order,
                context=self.plan.config.context, reads=self.plan.reads, layers={layer}, predict=False,
            )  # fmt: skip
            targets["self_distillation_loss"] = shown.features[layer]
        return targets
