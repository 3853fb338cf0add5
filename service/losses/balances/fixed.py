"""Constant weights: what dynamic ones are to be compared with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from service.losses.balances import Balance


class FixedBalance(Balance):
    """Every strength is 1: 0.05, 0.5 and 0.45 in the weighted form, a third each in the normalised one."""

    def strengths(self, losses: Tensor, validities: Callable[[], Tensor]) -> Tensor:
        return torch.ones_like(losses)
