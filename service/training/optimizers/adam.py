"""Adam (Kingma and Ba 2014, arXiv:1412.6980)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field

from service.losses.schedules import Cosine, Scheduled, first, within
from service.training.optimizers import Optimizer
from service.training.uncompiled import uncompiled

Share = Annotated[float, Field(ge=0, lt=1)]


class Adam(Optimizer):
    """The defaults are SelfGAN's."""

    betas: tuple[Share, Annotated[Scheduled, within(ge=0, lt=1)]] = (0.5, 0.999)
    eps: float = Field(1e-8, gt=0)

    def build(self, groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
        betas = self.betas[0], first(self.betas[1])
        return uncompiled(torch.optim.Adam)(groups, lr=self.first_rate, betas=betas, eps=self.eps, fused=fused)

    def schedule(self, built: torch.optim.Optimizer, step: int, batch_size: int) -> None:
        super().schedule(built, step, batch_size)
        momentum, squares = self.betas
        if isinstance(squares, Cosine):
            for group in built.param_groups:
                group["betas"] = (momentum, squares.at(step, batch_size))
