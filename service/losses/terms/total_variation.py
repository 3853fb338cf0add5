"""Total variation: how much neighbouring pixels differ (Johnson et al. 2016; in Liu et al.'s form, 2018)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from service.losses.terms import Distance, Term


class TotalVariation(Term):
    """The mean absolute difference of pixels from those to their right, and from those below."""

    weight: float = Field(0.1, ge=0)

    def build(self, device: torch.device, dtype: torch.dtype) -> Distance:
        return self._of

    def _of(self, made: Tensor, target: Tensor | None) -> Tensor:
        across = (made[..., 1:] - made[..., :-1]).abs().flatten(1).mean(1)
        down = (made[..., 1:, :] - made[..., :-1, :]).abs().flatten(1).mean(1)
        return self.weight * (across + down)
