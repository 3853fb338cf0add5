"""Weight clipping (Arjovsky et al. 2017, arXiv:1701.07875; martinarjovsky/WassersteinGAN)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from service.losses.regularizers import Regularizer


class WeightClipping(Regularizer):
    """Every weight of the critic is brought into [-limit, limit] before each of its updates."""

    limit: float = Field(0.01, gt=0)

    def mend(self, critics: nn.ModuleDict) -> None:
        with torch.no_grad():
            for parameter in critics.parameters():
                parameter.clamp_(-self.limit, self.limit)
