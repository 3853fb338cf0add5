"""Weights that follow the critic's mean validity: the notebooks of the SelfGAN author."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipelines.components import name_of
from service.losses.balances import Balance
from service.losses.objectives import Objective


class ValidityBalance(Balance):
    """A term's strength is the distance of its mean validity from what the term asks for."""

    def check(self, objective: Objective) -> None:
        if objective.validity(torch.zeros(1, 1, 1)) is None:
            raise ValueError(
                f"scheme.balance validity: the logits of objective {name_of(objective)} say nothing of how real an "
                "image is; use scheme.balance=fixed, or loss"
            )

    def strengths(self, losses: Tensor, validities: Callable[[], Tensor]) -> Tensor:
        generator, real, fake = validities()
        return torch.stack([1.0 - generator, 1.0 - real, fake]).abs()
