"""Regularizers at work: what all of them add to the critics' loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from service.batch import GlobalBatch
from service.judging import judge
from service.regularizers import Regularizer
from service.tasks import View


def penalties(
    regularizers: Sequence[Regularizer],
    due: Sequence[bool],
    critics: nn.ModuleDict,
    fakes: Mapping[str, View],
    reals: Mapping[str, View],
    batch: GlobalBatch,
    number: int,
) -> Tensor:
    """(N,), the sum of the penalties of all games that are due, zeros if none is.

    Args:
        number: of the critics' pass.
    """
    total = batch.own_rows.new_zeros(len(batch.own_rows), dtype=batch.dtype)
    for regularizer, is_due in zip(regularizers, due, strict=True):
        for game, critic in critics.items():
            if not is_due:
                continue

            def logits(view: View, critic: nn.Module = critic) -> Tensor:
                return judge(critic, [view], [batch.own_rows], batch, number).outputs

            with batch.passes(batch.own_rows, first=number):
                penalty = regularizer.penalty(logits, fakes[game], reals[game], batch)
            if penalty is not None:
                total = total + penalty
    return total
