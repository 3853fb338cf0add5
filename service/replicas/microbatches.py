"""Micro-batches: a replica's rows go through networks some at a time, and give what they give all at once.

What a network leaves behind for its gradient is thrown away, and computed again, one micro-batch after the other, when
the gradient is taken; losses see the outputs of all rows. So memory follows the micro-batch, and the batch, which is
part of the algorithm, stays as large as the recipe has it. Keyed noise makes the second pass equal to the first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from service.models.rows_apart import ChangedByCalls
from service.replicas.rows import Present, Rows, RowSet

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


def by_microbatch(
    function: Callable[[Given], Made], given: Given, batch: Rows, most: int | None, network: nn.Module
) -> Made:
    """What `function` makes of the rows that networks are being shown, at most so many rows of each pass at a time.

    Args:
        function: looks at each row alone. It is called again when gradients are taken.
        given: tensors (N, ...), in tuples and dicts, with None where one is missing.
        network: that it calls.

    Returns:
        Likewise.
    """
    microbatches = split(batch.present.shown.sets, most)
    if len(microbatches) == 1:
        return function(given)
    leaves, structure = pytree.tree_flatten(given)
    begun, call = batch.present, _Call(network)
    found: list[list[Tensor | None]] = []
    for microbatch in microbatches:

        def made(*values: Tensor | None, shown: Present = _shown(begun, microbatch)) -> tuple[Made, Present]:  # noqa: B008
            with batch.at(shown), call:
                return function(pytree.tree_unflatten(values, structure)), batch.present

        rows = [None if leaf is None else microbatch.of(leaf) for leaf in leaves]
        result, after = _checkpointed(made, rows, batch) if torch.is_grad_enabled() else made(*rows)
        values, shape = pytree.tree_flatten(result)
        found.append(values)
    batch.become(begun._replace(layer_calls=after.layer_calls))  # Layers were called once, by all micro-batches.
    whole: Made = pytree.tree_unflatten([_joined(values, microbatches) for values in zip(*found, strict=True)], shape)
    return whole


def _checkpointed(function: Callable[..., Made], rows: Sequence[Tensor | None], batch: Rows) -> Made:
    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        # Gradients are taken outside of all of torch's modes, so what is computed again then enters them anew.
        return nullcontext(), batch.arithmetic

    made: Made = checkpoint(function, *rows, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return made


class _Call:
    """One call of a network, in several parts, which may be done again: layers that calls change, change once."""

    def __init__(self, network: nn.Module) -> None:
        self._layers = [module for module in network.modules() if isinstance(module, ChangedByCalls)]
        self._first: list[Any] | None = None
        self._repeating = ExitStack()

    def __enter__(self) -> None:
        if self._first is not None:
            for layer, call in zip(self._layers, self._first, strict=True):
                self._repeating.enter_context(layer.again(call))

    def __exit__(self, *raised: object) -> None:
        self._repeating.close()
        if self._first is None:
            self._first = [layer.last_call() for layer in self._layers]


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
