"""Exponential moving average of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from randar_features.training.distributed import gathered, placed_like


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
