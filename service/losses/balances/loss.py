"""Weights that follow the batch means of the losses: the SelfGAN paper, section 4."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pipelines.components import name_of
from service.losses.balances import Balance
from service.losses.objectives import Objective


class LossBalance(Balance):
    """A term's strength is its mean loss, so a weighted term is quadratic in it."""

    def check(self, objective: Objective) -> None:
        if not objective.non_negative:
            raise ValueError(
                f"scheme.balance loss: the losses of objective {name_of(objective)} may be negative, and so would be "
                "their weights; use scheme.balance=fixed"
            )

    def strengths(self, losses: Tensor, validities: Callable[[], Tensor]) -> Tensor:
        return losses
