"""RMSProp (Tieleman and Hinton 2012), which WGAN's author trains with: it has no momentum."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from service.losses.schedules import Scheduled, within
from service.training.optimizers import Optimizer
from service.training.uncompiled import uncompiled


class RMSProp(Optimizer):
    """The defaults are WGAN's; the rest is torch's."""

    learning_rate: Annotated[Scheduled, within(gt=0, ends={"ge": 0})] = 5e-5
    alpha: float = Field(0.99, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)

    def build(self, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
        return uncompiled(torch.optim.RMSprop)(groups, lr=self.first_rate, alpha=self.alpha, eps=self.eps)
