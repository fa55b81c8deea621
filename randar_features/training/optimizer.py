"""AdamW and Muon, schedules of the learning rate (s/W for the first W steps), and the average of the weights."""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from randar_features.training.distributed import gathered, placed_like

# Projections of one matrix that are stacked in the rows of a weight, by the module's name.
STACKED = {"wqkv": 3}
FUSED = ("cpu", "cuda", "mps", "xpu")


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by Newton-Schulz iterations (Jordan et al. 2024), for matrices.

    Updates are scaled to AdamW's root mean square, 0.2·√max(rows, columns) (Liu et al., arXiv 2502.16982).
    Unlike `torch.optim.Muon` it iterates in float32 on a CPU, where bfloat16 may be many times slower,
    and treats all matrices of one shape as one batch. In a group with `stack` k each parameter is a stack of
    k matrices of one height, which are orthogonalised one by one.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        steps: int = 5,
        stack: int = 1,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "steps": steps, "stack": stack}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append((parameter, parameter.grad))
            for pairs in by_shape.values():
                self._update(group, pairs)

    def _update(self, group: dict[str, Any], pairs: list[tuple[nn.Parameter, Tensor]]) -> None:
        directions = []
        for parameter, gradient in pairs:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"]
            momentum.lerp_(gradient, 1 - group["momentum"])
            direction = gradient.lerp(momentum, group["momentum"])
            whole = direction.full_tensor() if isinstance(direction, DTensor) else direction
            directions.append(split_stack(whole, group["stack"]))
        updates = orthogonalize(torch.cat(directions), group["steps"]).split(group["stack"])
        for (parameter, _), update in zip(pairs, updates, strict=True):
            scale = 0.2 * max(update.shape[1:]) ** 0.5
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(placed_like(update.flatten(0, 1), parameter), alpha=-group["lr"] * scale)


def split_stack(matrix: Tensor, count: int) -> Tensor:
    """(count·R, C) → (count, R, C)."""
    return matrix.reshape(count, -1, matrix.shape[1])


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly the closest semi-orthogonal matrices to `matrices` (n, R, C): singular values about 0.7 … 1.2."""
    x = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Optimizer:
    """Torch optimisers that step together, each with its own peak learning rates; `names` of their parameters."""

    def __init__(self, parts: list[torch.optim.Optimizer], names: dict[Tensor, str]) -> None:
        self.parts, self.names = parts, names

    def step(self, multiplier: float) -> None:
        """Update with `multiplier` times the peak learning rates, then clear the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                peak = group.setdefault("initial_lr", group["lr"])  # where torch's own schedulers keep it
                group["lr"] = peak * multiplier
            part.step()
        self.clear()

    def clear(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad()

    def state_dict(self, keep: bool = True) -> dict[str, dict[str, Tensor]]:
        """Each parameter's state by its name, whole and on the CPU: all processes take part if it is sharded.

        Learning rates and the like are the configuration's, not the state's.
        """
        state = {parameter: values for part in self.parts for parameter, values in part.state.items()}
        return {name: gathered(state[p], keep) for p, name in self.names.items() if p in state}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take up a saved state; KeyError if it is of other parameters, or other optimisers had them."""
        if state and (absent := set(self.names.values()) - state.keys()):
            raise KeyError(f"the optimizer's state lacks {min(absent)}")
        for part in self.parts:
            parameters = [parameter for group in part.param_groups for parameter in group["params"]]
            placed = {
                index: {
                    key: placed_like(value, parameter) if value.shape == parameter.shape else value
                    for key, value in state[self.names[parameter]].items()
                }
                for index, parameter in enumerate(parameters)
                if state
            }  # moments lie where their parameter does; a counter is everywhere
            part.load_state_dict({"state": placed, "param_groups": part.state_dict()["param_groups"]})


def load_moments(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take up what a saved state holds of each parameter; rates, decay and the like are the configuration's.

    ValueError if it is of other parameters.
    """
    own, saved = optimizer.state_dict()["param_groups"], state["param_groups"]
    groups = [group | {"params": was["params"]} for group, was in zip(own, saved, strict=True)]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


def build_optimizer(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.95),
    muon_learning_rate: float | None = None,
) -> Optimizer:
    """AdamW, with decay on tensors of two or more dimensions only; fused where the device has it.

    With `muon_learning_rate` the matrices inside `model.layers` are trained by Muon instead.
    """
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters() if p.requires_grad}
    use_muon = muon_learning_rate is not None
    matrices = [p for p, name in names.items() if use_muon and name.startswith("layers.") and p.dim() == 2]
    taken = set(matrices)
    rest = [p for p in names if p not in taken]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in FUSED for p in names)
    parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)]
    if muon_learning_rate is not None:
        stacks = {p: _stack(p, names[p]) for p in matrices}
        by_stack = [
            {"params": [p for p in matrices if stacks[p] == stack], "stack": stack}
            for stack in sorted({*stacks.values()})
        ]
        parts.append(Muon(by_stack, lr=muon_learning_rate, weight_decay=weight_decay))
    return Optimizer(parts, names)


def _stack(parameter: Tensor, name: str) -> int:
    """How many matrices are stacked in it; 1 where they are of different heights, as with grouped queries."""
    rows, columns = parameter.shape
    count = STACKED.get(name.split(".")[-2], 1)
    return count if rows == count * columns else 1


def rate_multiplier(step: int, schedule: str = "cosine", *, warmup: int, total: int, floor: float = 0.05) -> float:
    """s/W for s < W; then, with p = (s − W)/(T − W) up to T and 1 after it, by the schedule.

    "cosine": floor + (1 − floor)·(1 + cos(π·p))/2. "linear": 1 − (1 − floor)·p. "constant": 1.
    """
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if schedule == "cosine":
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
    return 1 - (1 - floor) * progress if schedule == "linear" else 1.0


class WeightAverage:
    """Average of a module's floating-point state: a ← d·a + (1 − d)·w, d = min(decay, (1 + s)/(10 + s)).

    The decay grows with the number of updates s, so that the first weights are soon forgotten. Where the
    module's weights are sharded, so is the average.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value.detach(), 1 - decay)
            else:
                self.values[name].copy_(value)

    def state_dict(self, keep: bool = True) -> dict[str, Any]:
        """What `load_state_dict` needs, whole and on the CPU; empty without `keep`, see `gathered`."""
        return {"updates": self.updates, "values": gathered(self.values, keep)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved average."""
        self.updates = state["updates"]
        for name, value in state["values"].items():
            self.values[name].copy_(placed_like(value, self.values[name]))
