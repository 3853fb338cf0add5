"""What layers ask of all rows while they are being shown a micro-batch of them.

Batch norm needs the mean over all rows, and sees some. So it asks, and is told, if the statistic is known; if not, the
call ends there. What it would have taken the statistic of is collected from all micro-batches, and the call is made
again: it comes as far as the next statistic that is not known yet (`service.replicas.microbatches`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.models.layer_kinds import Kept


@dataclass
class Statistic:
    """Of all rows that networks are being shown.

    Attributes:
        value: the same for all of them or, if it is `by_row`, (N, J).
        told: how often layers have been told.
    """

    value: Tensor
    by_row: bool
    told: int = 0


def copy_of(value: Tensor) -> Tensor:
    """A copy of what a layer is about to change, without a gradient.

    torch.compile would rather copy once more for the backward pass than keep the copy, when the layer has changed it.
    It does not repeat an operation that it does not know.
    """
    if torch.compiler.is_compiling():
        known: Tensor = _copy_of(value)
        return known
    return value.detach().clone()


@torch.library.custom_op("selfgan::copy_of", mutates_args=())
def _copy_of(value: Tensor) -> Tensor:
    return value.detach().clone()


@_copy_of.register_fake
def _(value: Tensor) -> Tensor:
    return torch.empty_like(value)


class NeedsAllRowsError(Exception):
    """A layer asks for a statistic.

    Attributes:
        values: (n, K), of the rows at hand.
        take: the statistic, from the values of all rows.
        by_row: whether that is something of each row.
    """

    def __init__(self, values: Tensor, take: Callable[[Tensor], Tensor], by_row: bool) -> None:
        super().__init__()
        self.values, self.take, self.by_row = values, take, by_row


class Known:
    """The statistics that one call of a network is told, in the order in which it asks.

    Args:
        kept: what layers kept when a call first came to them.
        part: picks what is the micro-batch's of (N, J).
    """

    def __init__(self, statistics: Sequence[Statistic], kept: Kept[Tensor], part: Callable[[Tensor], Tensor]) -> None:
        self._statistics, self._kept, self._part = statistics, kept, part
        self._asked = 0

    def statistic(self, values: Tensor, take: Callable[[Tensor], Tensor], by_row: bool) -> Tensor:
        """Raises NeedsAllRowsError."""
        if self._asked == len(self._statistics):
            raise NeedsAllRowsError(values, take, by_row)
        found = self._statistics[self._asked]
        self._asked += 1
        found.told += 1
        return self._part(found.value) if by_row else found.value

    def as_at_first(self, value: Tensor) -> Tensor:
        """A copy of the value that this was when a call first came here, whatever has become of it."""
        return self._kept.next(lambda: value.detach().clone())

    @property
    def first_told(self) -> bool:
        """Whether nobody was told the last statistic before."""
        return self._statistics[self._asked - 1].told == 1
