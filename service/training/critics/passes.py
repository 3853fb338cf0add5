"""Critics at work: views in, the whole batch's logits out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from service.losses.objectives import Scores
from service.losses.regularizers import Place
from service.replicas.global_batch import GlobalBatch
from service.replicas.microbatches import by_microbatch
from service.replicas.row_sets import RowSet
from service.tasks import View

#: Passes of a step, as draws and statistics are numbered.
GENERATED, SHOWN_REAL, SHOWN_FAKE, GENERATED_LATER, COMPARED, PENALISED = range(6)


class CriticOutputs(NamedTuple):
    """What a critic says of some sets of rows here, one after the other.

    Attributes:
        outputs: (N, F + heads).
        kinds: (N, K); None where there is but one.
        rows: the sets; each is one pass.
        first: the first pass's number.
        gradients: (N, C, H, W) of logits at real or generated images, where wanted.
    """

    outputs: Tensor
    kinds: Tensor | None
    rows: Sequence[RowSet]
    first: int
    gradients: Mapping[Place, Tensor] | None = None


def run_critic(
    critic: nn.Module,
    views: Sequence[View],
    rows: Sequence[RowSet],
    batch: GlobalBatch,
    first: int,
    call: Callable[..., Tensor] | None = None,
) -> CriticOutputs:
    """Several passes in one call: what looks at the batch keeps their statistics apart.

    Args:
        first: the first pass's number.
        call: how it is called [default: as modules are].
    """

    def outputs_of(view: View) -> Tensor:
        outputs: Tensor = (call or critic)(*(value for value in view[:2] if value is not None))
        return outputs

    view = View.joined(views)
    with batch.passes(*rows, first=first):
        outputs = by_microbatch(outputs_of, view, batch, critic)
    return CriticOutputs(outputs, view.kinds, rows, first)


def gather_scores(
    outputs: Sequence[CriticOutputs], heads: int, batch: GlobalBatch, terms: Sequence[Tensor] = ()
) -> tuple[list[list[Scores]], Tensor]:
    """What all replicas have found, in one collective.

    Args:
        outputs: of each critic.
        heads: how many columns at the end of outputs are no logits.
        terms: (N,) losses of this replica's rows.

    Returns:
        By critic, by pass, the whole batch's logits; and the terms' means, (terms, shards).
    """
    width = [found.outputs.shape[1] - heads for found in outputs]
    tables = [
        (_logits_and_kinds(found, columns, batch), found.rows) for found, columns in zip(outputs, width, strict=True)
    ]
    if terms:
        tables.append((torch.stack(list(terms), 1), [batch.own_rows]))
    whole = batch.whole(*tables)
    means = whole.pop()[0].mean(1).T if terms else batch.step.new_zeros((0, batch.shards), dtype=batch.dtype)
    return [
        [_scores(one, columns, batch, found.first + number) for number, one in enumerate(table)]
        for table, columns, found in zip(whole, width, outputs, strict=True)
    ], means


def _logits_and_kinds(found: CriticOutputs, columns: int, batch: GlobalBatch) -> Tensor:
    """(N, F + K); (N, F) where there is but one kind."""
    logits = found.outputs if found.outputs.shape[1] == columns else found.outputs[:, :columns]
    if found.kinds is not None:
        return torch.cat([logits, found.kinds], 1)
    # XLA would add up a single column over its chips, in bfloat16 where networks multiply in it.
    return torch.cat([logits, logits.new_ones(len(logits), 1)], 1) if batch.over_chips else logits


def _scores(table: Tensor, columns: int, batch: GlobalBatch, number: int) -> Scores:
    """Of one pass: (shards, group_size, F + K), as `_logits_and_kinds` has them."""

    def draw(name: str) -> Tensor:
        return batch.uniform_for_all(name, 1, number).view(batch.shards, batch.group_size, 1)

    if table.shape[2] == columns:
        return Scores(table, None, draw)
    return Scores(table[:, :, :columns], table[:, :, columns:], draw)
