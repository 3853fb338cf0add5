"""Micro-batches: a replica's rows go through networks some at a time, and give what they give all at once.

What a network leaves behind for its gradient is thrown away, and computed again, one micro-batch after the other, when
the gradient is taken; losses see the outputs of all rows. So memory follows the micro-batch, and the batch, which is
part of the algorithm, stays as large as the recipe has it. Keyed noise makes the second pass equal to the first.

Layers that look at the batch cost more: for each of them, all micro-batches first go through the network as far as it,
for its statistic; then comes the next. A statistic's own gradient goes the same way back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from service.models.rows_apart import ChangedByCalls
from service.replicas.rows import Present, Rows, RowSet
from service.replicas.statistics import Known, NeedsAllRowsError, Statistic

Given = TypeVar("Given")
Made = TypeVar("Made")


class Microbatch(NamedTuple):
    """Some of the rows that networks are being shown.

    Attributes:
        rows: of each pass.
        places: where they lie among the rows of all passes.
    """

    rows: tuple[RowSet, ...]
    places: tuple[slice, ...]

    def of(self, values: Tensor) -> Tensor:
        """(N, ...) -> those of these rows."""
        parts = [values[place] for place in self.places]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def by_microbatch(function: Callable[[Given], Made], given: Given, batch: Rows, network: nn.Module) -> Made:
    """What `function` makes of the rows that networks are being shown, `batch.rows_at_once` of each pass at a time.

    Args:
        function: looks at each row alone, and asks the batch for all else. It is called several times.
        given: tensors (N, ...), in tuples and dicts, with None where one is missing.
        network: that it calls.

    Returns:
        Likewise.
    """
    microbatches = split(batch.present.shown.sets, batch.rows_at_once)
    if len(microbatches) == 1:
        return function(given)
    leaves, structure = pytree.tree_flatten(given)
    rows = [[None if leaf is None else part.of(leaf) for leaf in leaves] for part in microbatches]
    begun, call = batch.present, _Call(network)
    statistics: list[Statistic] = []
    kept: list[Tensor] = []
    while True:
        runs = [
            _Run(
                function, structure, batch, call, _shown(begun, part), partial(Known, tuple(statistics), kept, part.of)
            )
            for part in microbatches
        ]
        made = [run.repeatably(*values) for run, values in zip(runs, rows, strict=True)]
        flat, (shape, *_) = zip(*(pytree.tree_flatten(values) for values in made), strict=True)
        joined = [_joined(values, microbatches) for values in zip(*flat, strict=True)]
        asked = runs[0].asked
        if asked is None:
            break
        (values,), (take, by_row) = joined, asked
        assert values is not None
        statistics.append(Statistic(take(values), by_row))
    batch.become(begun._replace(layer_calls=runs[0].layer_calls))  # Layers were called once, by all micro-batches.
    whole: Made = pytree.tree_unflatten(joined, shape)
    return whole


class _Run:
    """One micro-batch's call of a function, which can be made again.

    Attributes:
        asked: how to take the statistic that ended it, from the values that it gave, and whether that is by row.
        layer_calls: of the batch, after it.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        structure: pytree.TreeSpec,
        batch: Rows,
        call: _Call,
        shown: Present,
        known: Callable[[], Known],
    ) -> None:
        self._function, self._structure, self._batch = function, structure, batch
        self._call, self._shown, self._known = call, shown, known
        self.asked: tuple[Callable[[Tensor], Tensor], bool] | None = None
        self.layer_calls = shown.layer_calls

    def repeatably(self, *rows: Tensor | None) -> Any:
        """What the function makes of the rows; what it leaves for gradients is computed again then."""
        if not torch.is_grad_enabled():
            return self(*rows)
        return checkpoint(self, *rows, use_reentrant=False, preserve_rng_state=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Gradients are taken outside of all of torch's modes, so what is computed again then enters them anew."""
        return nullcontext(), self._batch.arithmetic

    def __call__(self, *rows: Tensor | None) -> Any:
        with self._batch.at(self._shown._replace(known=self._known())), self._call:
            try:
                return self._function(pytree.tree_unflatten(rows, self._structure))
            except NeedsAllRowsError as question:
                self.asked = question.take, question.by_row
                return question.values
            finally:
                self.layer_calls = self._batch.present.layer_calls


class _Call:
    """A call of a network, made in many runs: layers that are changed by calls are changed once."""

    def __init__(self, network: nn.Module) -> None:
        self._kept: list[tuple[ChangedByCalls, list[Any]]] = [
            (module, []) for module in network.modules() if isinstance(module, ChangedByCalls)
        ]

    def __enter__(self) -> None:
        for layer, kept in self._kept:
            layer.keep_in = kept

    def __exit__(self, *raised: object) -> None:
        for layer, _ in self._kept:
            layer.keep_in = None


def split(sets: Sequence[RowSet], most: int | None) -> list[Microbatch]:
    """Rows of several passes in as few lots as can be, each of at most so many rows of a pass.

    Where there are several cells, each lot has whole ones.
    """
    ends = _ends(sets, most)
    starts = list(itertools.accumulate((len(rows) for rows in sets[:-1]), initial=0))
    return [
        Microbatch(
            tuple(rows.between(low, high) for rows, low, high in zip(sets, lows, highs, strict=True)),
            tuple(slice(start + low, start + high) for start, low, high in zip(starts, lows, highs, strict=True)),
        )
        for lows, highs in itertools.pairwise([[0] * len(sets), *ends])
    ]


def _ends(sets: Sequence[RowSet], most: int | None) -> list[list[int]]:
    """Where each lot ends in each pass."""
    whole = [len(rows) for rows in sets]
    if most is None or max(whole) <= most:
        return [whole]
    cells = list(zip(*(rows.cells for rows in sets), strict=True))
    if len(cells) == 1:
        lots = -(-max(whole) // most)
        return [[length * (lot + 1) // lots for length in whole] for lot in range(lots)]
    found, begun, end = [], [0] * len(sets), [0] * len(sets)
    for counts in cells:
        after = [here + count for here, count in zip(end, counts, strict=True)]
        if any(stop - start > most for stop, start in zip(after, begun, strict=True)):
            found.append(end)
            begun = end
        end = after
    return [*found, end]


def _shown(present: Present, microbatch: Microbatch) -> Present:
    """The same moment, with these rows alone."""
    own_rows = present.own_rows
    for rows, part in zip(present.shown.sets, microbatch.rows, strict=True):
        if rows is present.own_rows:
            own_rows = part
    shown = present.shown._replace(numbers=microbatch.of(present.shown.numbers), sets=microbatch.rows)
    return present._replace(own_rows=own_rows, shown=shown)


def _joined(values: Sequence[Tensor | None], microbatches: Sequence[Microbatch]) -> Tensor | None:
    """Of each micro-batch (n, ...), pass after pass -> (N, ...), likewise."""
    tensors = [value for value in values if value is not None]
    if not tensors:
        return None
    parts = [
        tensor.split([len(rows) for rows in microbatch.rows])
        for tensor, microbatch in zip(tensors, microbatches, strict=True)
    ]
    return torch.cat([part for of_pass in zip(*parts, strict=True) for part in of_pass])
