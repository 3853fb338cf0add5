"""Micro-batches: a replica's rows go through networks some at a time, and give what they give all at once.

What a network leaves behind for its gradient is thrown away, and computed again, one micro-batch after the other, when
the gradient is taken; losses see the outputs of all rows. So memory follows the micro-batch, and the batch, which is
part of the algorithm, stays as large as the recipe has it. Keyed noise makes the second pass equal to the first.

Layers that look at the batch cost more: for each of them, all micro-batches first go through the network as far as it,
for its statistic; then comes the next. A statistic's own gradient goes the same way back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from service.models.layer_kinds import ChangedByCalls, Kept
from service.replicas.row_sets import RowSet
from service.replicas.rows import Present, Rows
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
        Tensors (N, ...), likewise.
    """
    if batch.known is not None:  # These rows are a micro-batch.
        return function(given)
    microbatches = split(batch.present.shown.sets, batch.rows_at_once)
    if len(microbatches) == 1:
        return function(given)
    call = _Call(function, network, batch)
    leaves, structure = pytree.tree_flatten(given)
    parts = [
        pytree.tree_unflatten([None if leaf is None else part.of(leaf) for leaf in leaves], structure)
        for part in microbatches
    ]
    while True:
        runs = [_Run(call, microbatch) for microbatch in microbatches]
        made = [pytree.tree_flatten(run.repeatably(part)) for run, part in zip(runs, parts, strict=True)]
        joined = [_joined(values, microbatches) for values in zip(*(values for values, _ in made), strict=True)]
        question = runs[0].question
        if question is None:
            break
        call.answer(question, joined[0])
    batch.become(call.begun._replace(layer_calls=runs[0].layer_calls))  # Layers were called once, by all micro-batches.
    whole: Made = pytree.tree_unflatten(joined, made[0][1])
    return whole


class _Question(NamedTuple):
    """How a statistic is taken of the values of all rows, and whether it is one of each row."""

    take: Callable[[Tensor], Tensor]
    by_row: bool


class _Call:
    """A call that is made for each micro-batch, as far as the next statistic, and again for gradients.

    Attributes:
        begun: the moment at which it begins.
        statistics: that are known so far.
    """

    def __init__(self, function: Callable[[Any], Any], network: nn.Module, batch: Rows) -> None:
        self.function, self.batch, self.begun = function, batch, batch.present
        self.statistics: tuple[Statistic, ...] = ()
        self._kept: Kept[Tensor] = Kept()
        changed = [module for module in network.modules() if isinstance(module, ChangedByCalls)]
        self._kept_by: list[tuple[ChangedByCalls, Kept[tuple[Tensor, ...]]]] = [(layer, Kept()) for layer in changed]

    def answer(self, question: _Question, values: Tensor | None) -> None:
        """Take a statistic of the values of all rows."""
        assert values is not None
        self.statistics = (*self.statistics, Statistic(question.take(values), question.by_row))

    @contextmanager
    def at(self, microbatch: Microbatch, statistics: Sequence[Statistic]) -> Iterator[None]:
        """Within, the batch has these rows, and layers that calls change are changed once in all."""
        self._kept.begin()
        known = Known(statistics, self._kept, microbatch.of)
        for layer, kept in self._kept_by:
            kept.begin()
            layer.kept = kept
        try:
            with self.batch.at(_shown(self.begun, microbatch)._replace(known=known)):
                yield
        finally:
            for layer, _ in self._kept_by:
                layer.kept = None


class _Run:
    """A call's run over one micro-batch, which can be made again.

    Attributes:
        question: that ended it, if one did; it then gave the values that the question is about.
        layer_calls: of the batch, after it.
    """

    def __init__(self, call: _Call, microbatch: Microbatch) -> None:
        self._call, self._microbatch, self._statistics = call, microbatch, call.statistics
        self.question: _Question | None = None
        self.layer_calls = call.begun.layer_calls

    def repeatably(self, given: Any) -> Any:
        """What the function makes of the rows; what it leaves for gradients is computed again then."""
        if not torch.is_grad_enabled():
            return self(given)
        return checkpoint(self, given, use_reentrant=False, preserve_rng_state=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Gradients are taken outside of all of torch's modes, so what is computed again then enters them anew."""
        return nullcontext(), self._call.batch.arithmetic

    def __call__(self, given: Any) -> Any:
        with self._call.at(self._microbatch, self._statistics):
            try:
                return self._call.function(given)
            except NeedsAllRowsError as error:
                self.question = _Question(error.take, error.by_row)
                return error.values
            finally:
                self.layer_calls = self._call.batch.present.layer_calls


def split(sets: Sequence[RowSet], most: int | None) -> list[Microbatch]:
    """Rows of several passes as micro-batches, each of at most so many rows of a pass.

    Where there are several cells, each has whole ones, and at least one.
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
    """Where each micro-batch ends in each pass."""
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
        if end != begun and any(stop - start > most for stop, start in zip(after, begun, strict=True)):
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
    shown = present.shown._replace(numbers=microbatch.of(present.shown.numbers), runs=(), sets=microbatch.rows)
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
