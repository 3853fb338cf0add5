"""Optimizers: torch's, one a file, with the field's defaults."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from service.components import Component


class Decay(BaseModel):
    """The learning rate stays until step `start`, and falls to 0 in a straight line over as many `steps`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: int = Field(ge=0)
    steps: int = Field(ge=1)

    def share(self, step: int) -> float:
        """What is left of the rate at `step`."""
        return max(0.0, 1.0 - max(0, step - self.start) / self.steps)


class Optimizer(Component):
    """Options of an optimizer; critics may have a learning rate of their own."""

    learning_rate: float = Field(2e-4, gt=0)
    critic_learning_rate: float | None = Field(None, gt=0, description="[default: learning_rate]")
    decay: Decay | None = None

    @abstractmethod
    def build(self, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
        """A new optimizer of groups of parameters, each with its ``lr``; fused, if that exists."""

    def schedule(self, built: torch.optim.Optimizer, step: int) -> None:
        """Give every group of a built optimizer its rate at `step`, a function of that alone."""
        if self.decay is not None:
            for group in built.param_groups:
                group["lr"] = group["initial_lr"] * self.decay.share(step)
