"""Options of the losses in addition to next-token prediction."""

from dataclasses import dataclass, field
from typing import Literal

from randar_features.options.types import Natural, NonNegative, Share, check_ranges


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """See `heads.Alignment`.

    Attributes:
        weight: weight of the loss; 0: off. REPA and iREPA use 0.5.
        layer: the block whose output is aligned; none: the middle one.
        removed_mean: share of an image's mean vector to subtract from the teacher's map.
    """

    weight: NonNegative = 0.0
    layer: Natural | None = None
    removed_mean: Share = 0.5

    def __post_init__(self) -> None:
        check_ranges(self, "auxiliary.alignment.")


@dataclass(frozen=True, kw_only=True)
class SelfDistillationConfig:
    """See `heads.SelfDistillation`.

    Attributes:
        weight: weight of the loss; 0: off.
        student_layer: the block that learns; none: the middle one, or the third from the end if that comes earlier.
        teacher_layer: the block of the averaged model that teaches; none: the last but one.
    """

    weight: NonNegative = 0.0
    student_layer: Natural | None = None
    teacher_layer: Natural | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "auxiliary.self_distillation.")


@dataclass(frozen=True, kw_only=True)
class ClassHeadConfig:
    """See `heads.ClassHead`.

    Attributes:
        weight: weight of the loss; 0: off.
        layer: the block whose output is pooled; none: the middle one.
    """

    weight: NonNegative = 0.0
    layer: Natural | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "auxiliary.class_head.")


@dataclass(frozen=True, kw_only=True)
class AuxiliaryConfig:
    """The losses in addition to next-token prediction, and where they are computed.

    Attributes:
        second_showing: share of the batches in which the image is shown twice, in `context`. In these batches the
            losses are computed at the second showing, where each token has seen the whole image; in the other batches
            at the only showing. Next-token prediction always uses the first showing alone.
        context: how the image is shown the second time.
        reads: the tokens at which the losses are computed; none: all that the model has.
        alignment, self_distillation, class_head: the losses.
    """

    second_showing: Share = 0.0
    context: Literal["repeat", "reverse"] = "reverse"
    reads: list[str] | None = None
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    self_distillation: SelfDistillationConfig = field(default_factory=SelfDistillationConfig)
    class_head: ClassHeadConfig = field(default_factory=ClassHeadConfig)

    def __post_init__(self) -> None:
        check_ranges(self, "auxiliary.")
        if self.second_showing and not self.on:
            raise ValueError(
                f"auxiliary.second_showing = {self.second_showing}, but there is no loss at the second copy: give a "
                "weight to auxiliary.alignment, auxiliary.self_distillation or auxiliary.class_head"
            )
        if self.reads is not None and (not self.reads or len(set(self.reads)) < len(self.reads)):
            raise ValueError(f"auxiliary.reads = {self.reads}, expected different tokens, as [image, instruction]")

    @property
    def on(self) -> bool:
        """Whether any loss has a weight."""
        return any((self.alignment.weight, self.self_distillation.weight, self.class_head.weight))

    def shows_twice(self, step: int) -> bool:
        """Whether batch `step` shows its images twice; such batches are spread evenly over the training."""
        return int((step + 1) * self.second_showing) > int(step * self.second_showing)
