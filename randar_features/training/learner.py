"""A module and the AdamW that trains it, on one process or several."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class Learner:
    """Updates a module by a loss; gradients are averaged over the processes, and their norm is clipped.

    Args:
        module: its parameters that take gradients are trained.
        learning_rate: the peak.
        betas: of AdamW.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the whole gradient.
        accelerator: this process among those that train together.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        gradient_clip: float,
        accelerator: Accelerator,
    ) -> None:
        self.module, self.learning_rate, self.gradient_clip = module, learning_rate, gradient_clip
        self.accelerator = accelerator
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True
        )

    def update(self, loss: Tensor, multiplier: float) -> Tensor:
        """One step down `loss` at `multiplier` times the peak learning rate; the gradient's norm before clipping."""
        loss.backward()
        parameters = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
        if self.accelerator.num_processes > 1:
            for parameter in parameters:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.gradient_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * multiplier
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Weights and moments."""
        return {"weights": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.module.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
