"""Weights that follow the critic's mean validity: the notebooks of the SelfGAN author."""

from __future__ import annotations

import torch
from torch import Tensor

from service.balances import Balance


class ValidityBalance(Balance):
    """A term's strength is the distance of its mean validity from what the term asks for."""

    def strengths(self, losses: Tensor, validities: Tensor) -> Tensor:
        generator, real, fake = validities
        return torch.stack([1.0 - generator, 1.0 - real, fake])
