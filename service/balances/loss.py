"""Weights that follow the batch means of the losses: the SelfGAN paper, section 4."""

from __future__ import annotations

from torch import Tensor

from service.balances import Balance


class LossBalance(Balance):
    """A term's strength is its mean loss, so a weighted term is quadratic in it."""

    def strengths(self, losses: Tensor, validities: Tensor) -> Tensor:
        return losses
