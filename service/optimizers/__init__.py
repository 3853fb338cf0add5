"""Optimizers: torch's, one a file, with the field's defaults."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from pydantic import Field

from service.components import Component


class Optimizer(Component):
    """Options of an optimizer; critics may have a learning rate of their own."""

    learning_rate: float = Field(2e-4, gt=0)
    critic_learning_rate: float | None = Field(None, gt=0, description="[default: learning_rate]")

    @abstractmethod
    def build(self, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
        """A new optimizer of groups of parameters, each with its ``lr``; fused, if that exists."""
