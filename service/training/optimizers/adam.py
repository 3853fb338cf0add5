"""Adam (Kingma and Ba 2014, arXiv:1412.6980)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from service.training.optimizers import Optimizer
from service.training.uncompiled import uncompiled

Share = Annotated[float, Field(ge=0, lt=1)]


class Adam(Optimizer):
    """The defaults are SelfGAN's."""

    betas: tuple[Share, Share] = (0.5, 0.999)
    eps: float = Field(1e-8, gt=0)

    def build(self, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
        return uncompiled(torch.optim.Adam)(groups, lr=self.learning_rate, betas=self.betas, eps=self.eps, fused=fused)
