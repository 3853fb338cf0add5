"""RMSProp (Tieleman and Hinton 2012), which WGAN's author trains with: it has no momentum."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from service.training.optimizers import Optimizer
from service.training.uncompiled import uncompiled


class RMSProp(Optimizer):
    """The defaults are WGAN's; the rest is torch's."""

    learning_rate: float = Field(5e-5, gt=0)
    alpha: float = Field(0.99, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)

    def build(self, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
        return uncompiled(torch.optim.RMSprop)(groups, lr=self.learning_rate, alpha=self.alpha, eps=self.eps)
