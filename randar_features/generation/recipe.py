"""How each generator is decoded as published: its schedules, steps and guidance, and what it cannot do."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from randar_features.generation.decode import Guidance
from randar_features.generation.schedule import (
    ONE_BY_ONE,
    RECOMMENDED_SHARE,
    arccos_schedule,
    as_scale,
    cosine_schedule,
    decoding_schedule,
    group_schedule,
    recommended_steps,
)
from randar_features.models import ARPG, PAR, ImageTransformer, LlamaGen, RandAR
from randar_features.sequence import check_choice

GuidanceLike = float | tuple[float, float] | None
"""A scale: one number for all steps, or a pair that goes linearly from the first, where no token is done, to the
second, where all are; None: as published with the model."""

SCHEDULES: dict[str, Callable[[int, int], list[int]]] = {
    "randar": decoding_schedule,
    "arccos": arccos_schedule,
    "cosine": cosine_schedule,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The published way to decode with a kind of model.

    Attributes:
        schedules: rules it may follow, the published one first.
        steps_per_token: recommended steps, as a share of N; 1: one token a step.
        guidance: recommended scale.
        counts_own_step: whether a linear scale counts the tokens of its own step as done.
        fixed: the tokens of each step, from N and the number of known tokens, where there is no choice.
    """

    schedules: tuple[str, ...] = ()
    steps_per_token: float = 1.0
    guidance: float | tuple[float, float]
    counts_own_step: bool = False
    fixed: Callable[[int, int], list[int]] | None = None

    def schedule(self, name: str | None, num_tokens: int, known: int, steps: int | None) -> list[int]:
        """The tokens of each step, where `known` of N are there; ValueError for what the model cannot do."""
        if self.fixed is not None:
            return fixed_schedule(self.fixed, name, num_tokens, known, steps)
        name = self.schedules[0] if name is None else name
        check_choice("schedule", name, self.schedules)
        left = num_tokens - known
        return SCHEDULES[name](left, self.recommended_steps(left) if steps is None else steps)

    def recommended_steps(self, num_tokens: int) -> int:
        """The recommended number of steps for N tokens; −1: one token a step."""
        if self.fixed is not None:
            return len(self.fixed(num_tokens, 0))
        return ONE_BY_ONE if self.steps_per_token == 1 else recommended_steps(num_tokens, self.steps_per_token)

    def guide(self, guidance: GuidanceLike) -> Guidance:
        """Guidance by the class; None: of the recommended scale."""
        scale = as_scale(self.guidance if guidance is None else guidance)
        return Guidance(scale=scale, counts_own_step=self.counts_own_step)


def fixed_schedule(
    rule: Callable[[int, int], list[int]], name: str | None, num_tokens: int, known: int, steps: int | None
) -> list[int]:
    """The one schedule there is; `steps` may say its length, or −1 where that is one token a step."""
    whole, rest = rule(num_tokens, 0), rule(num_tokens, known)
    lengths = {None, len(whole), len(rest)} | ({-1} if max(whole) == 1 else set())
    if name is not None or steps not in lengths:
        given = f"steps={steps}" if name is None else f"schedule={name!r}"
        raise ValueError(
            f"this model always decodes its {num_tokens} tokens in {len(whole)} steps; got {given}: leave it out"
        )
    return rest


RECIPES: dict[type[ImageTransformer], Recipe] = {
    RandAR: Recipe(schedules=("randar", "arccos", "cosine"), steps_per_token=RECOMMENDED_SHARE, guidance=(1.0, 4.0)),
    LlamaGen: Recipe(fixed=lambda num_tokens, known: [1] * (num_tokens - known), guidance=2.0),
    PAR: Recipe(fixed=group_schedule, guidance=2.0),
    ARPG: Recipe(
        schedules=("arccos", "cosine", "randar"), steps_per_token=64 / 256, guidance=(1.0, 4.5), counts_own_step=True
    ),
}


def recipe_of(transformer: ImageTransformer) -> Recipe:
    """The recipe of a model's kind, with the steps that this model recommends if it does.

    Else one token a step after training in raster order, where no location was skipped.
    """
    recipe = next(recipe for kind, recipe in RECIPES.items() if isinstance(transformer, kind))
    if transformer.recommended_steps is not None:
        return replace(recipe, steps_per_token=transformer.recommended_steps / transformer.config.num_tokens)
    return replace(recipe, steps_per_token=1.0) if transformer.trained_order == "raster" else recipe
