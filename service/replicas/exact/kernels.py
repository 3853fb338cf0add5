"""Products cell by cell, or of all rows at once where that gives the same bits.

What a kernel computes for a row may depend on how many rows it is given, and on the number of threads. What counts
here is what one thread computes of one cell. A product is tried with random values when it is first met: where all rows
at once, on all threads, have the same bits, as is the rule for convolutions, they are taken at once from then on.
Where they have not, or cells have not all as many rows, each thread takes cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.replicas.exact.batch import ExactBatch
from service.replicas.exact.gradients import WeightGradients
from service.replicas.exact.layout import Layout
from service.replicas.exact.side_by_side import SideBySide, one_thread
from service.replicas.exact.tree import tree_sum
from service.replicas.products import Product

#: Values that are compared, at least: of another order, half of them would differ. Where sums are rounded to fewer bits
#: than they are taken in, that hides all but one difference of some ten thousand.
_COMPARED, _COMPARED_ROUNDED = 1 << 10, 1 << 20
_ROUNDED = torch.bfloat16, torch.float16
_MOST_TRIALS = 64
#: Bytes; torch's tensors on a CPU begin at multiples of it.
_ALIGNMENT = 64
#: A way to compute something of some tensors of rows.
_Way = Callable[..., Tensor]


class ByCell:
    """How exact replicas compute what involves many rows.

    Args:
        batch: of the run; says which rows are of which cell.
        gradients: takes the weights' gradients of all cells.
    """

    def __init__(self, batch: ExactBatch, gradients: WeightGradients) -> None:
        self._batch, self._gradients = batch, gradients
        self._chosen: dict[tuple[object, ...], bool] = {}
        self._threads = SideBySide()

    def of(self, rows: Tensor) -> RowsByCell:
        """How to compute with the rows that networks are being shown."""
        layout = self._batch.layout
        if len(rows) != layout.rows:
            raise ValueError(f"exact: a layer is given {len(rows)} rows, where the batch has {layout.rows} here")
        return RowsByCell(layout, self._gradients, self._chosen, self._threads, self._batch.known is not None)

    def to_rows(self, weight: Tensor) -> Tensor:
        """(K,) -> (N, K): the same for each row; its gradient is summed over cells."""
        given = self._gradients.one_for_each_cell(weight)
        rows: Tensor = _CellsToRows.apply(given, self._batch.layout)  # type: ignore[no-untyped-call]
        return rows

    def matrices(self, left: Tensor, right: Tensor) -> Tensor:
        """(N, I, K) and (N, K, J) -> (N, I, J): of each row, the product of its two matrices."""
        made: Tensor = _Matrices.apply(left, right, self.of(left))  # type: ignore[no-untyped-call]
        return made


class _CellsToRows(torch.autograd.Function):
    """(cells, K), the same of each, -> (N, K) rows."""

    @staticmethod
    def forward(ctx: Any, of_cells: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return of_cells[0].expand(layout.rows, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _RowsToCells.apply(gradient, ctx.layout), None  # type: ignore[no-untyped-call]


class _RowsToCells(torch.autograd.Function):
    """(N, K) rows -> (cells, K), of each cell the sum."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return tree_sum(layout.sums(rows))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.index_select(0, ctx.layout.cell_of_row(gradient.device)), None


class _Matrices(torch.autograd.Function):
    """Products of each row's matrices. Its gradients are such products too, and so have gradients."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, sums: RowsByCell) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.sums = sums
        return sums.matrices(left, right)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        of_left, of_right, _ = ctx.needs_input_grad
        apply: Callable[..., Tensor] = _Matrices.apply
        return (
            apply(gradient, right.transpose(1, 2), ctx.sums) if of_left else None,
            apply(left.transpose(1, 2), gradient, ctx.sums) if of_right else None,
            None,
        )


@dataclass(frozen=True)
class RowsByCell:
    """Rows of one layout; a `RowSums`.

    Attributes:
        chosen: by product, shapes and the cells' sizes, whether all at once was found to be right.
        threads: compute cells.
        in_microbatch: whether the networks will be shown other rows in the same call.
    """

    layout: Layout
    gradients: WeightGradients
    chosen: dict[tuple[object, ...], bool]
    threads: SideBySide
    in_microbatch: bool

    def given(self, weight: Tensor) -> Tensor:
        if self.in_microbatch and weight.requires_grad and not weight.is_leaf:
            raise TypeError(
                f"batch.rows_at_once: exact replicas cannot sum the gradients of a weight {tuple(weight.shape)} that a "
                "layer computes at every call; derive the layer from MakesWeight, and set batch.rows_at_once=null"
            )
        return self.gradients.one_for_each_cell(weight)

    def one(self, weights: Tensor) -> Tensor:
        return weights[0]

    def each_row(self, product: Product, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        def by_cell(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return self._in_runs(lambda run: product(run, weight, bias), rows)

        return self._best(product, by_cell, product, rows, weight, bias)

    def matrices(self, left: Tensor, right: Tensor) -> Tensor:
        """(N, I, K) and (N, K, J) -> (N, I, J): of each row, the product of its two matrices."""
        return self._best(torch.bmm, lambda *rows: self._in_runs(torch.bmm, *rows), torch.bmm, left, right)

    def _in_runs(self, function: _Way, *rows: Tensor) -> Tensor:
        """What a function makes of tensors of rows, cell by cell."""
        lots = [
            [_aligned(of[piece.start : piece.stop]) for of in rows]
            for piece in self.layout.pieces
            if piece.stop > piece.start
        ]
        if not lots:
            return function(*rows)
        return torch.cat(self.threads.map(lambda lot: function(*lot), lots, rows[0].device))

    def to_weight(self, product: Product, gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        layout = self.layout

        def at_once(gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
            return product.to_weights(layout.stacked(gradient), layout.stacked(rows), weight)

        def of_cell(gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
            if not len(rows):
                return torch.zeros_like(weight)
            return product.to_weight(_aligned(gradient), _aligned(rows), weight)

        def by_cell(gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
            lots = zip(layout.blocks(gradient), layout.blocks(rows), strict=True)
            return torch.stack(self.threads.map(lambda lot: of_cell(*lot, weight), lots, rows.device))

        if not layout.present:
            return weight.new_zeros(layout.cells, *weight.shape)
        return layout.placed(self._best(at_once, by_cell, (product, "to weight"), gradient, rows, weight))

    def to_bias(self, gradient: Tensor) -> Tensor:
        return tree_sum(self.layout.sums(gradient))

    def _best(self, at_once: _Way, by_cell: _Way, what: object, *given: Tensor | None) -> Tensor:
        """All at once, on all threads, if that gives the bits of cell by cell, on one thread each."""
        given = tuple(None if one is None else _aligned(one) for one in given)
        # Where cells are uneven, which rows fall together changes from step to step, and with it what a trial shows.
        if not self.layout.even:
            return by_cell(*given)
        shapes = tuple(None if one is None else (one.shape, one.dtype) for one in given)
        key = (what, shapes, self.layout.lengths, len(self.layout.present), torch.get_num_threads())
        if key not in self.chosen:
            with torch.no_grad():
                self.chosen[key] = _same_bits(at_once, by_cell, given)
        return at_once(*given) if self.chosen[key] else by_cell(*given)


def _same_bits(at_once: _Way, by_cell: _Way, given: Sequence[Tensor | None]) -> bool:
    """Whether one way gives the bits that the other gives on one thread, of random values. No, if too few can tell."""
    device = next(one.device for one in given if one is not None)
    generator = torch.Generator(device).manual_seed(0)
    compared, rounded = 0, False
    for _ in range(_MOST_TRIALS):
        # Weights too: a bias of zeros would hide where a kernel adds it.
        tried = [None if one is None else torch.empty_like(one).normal_(generator=generator) for one in given]
        with one_thread():
            right = by_cell(*tried)
        if not torch.equal(at_once(*tried), right):
            return False
        compared, rounded = compared + right.numel(), right.dtype in _ROUNDED
        if compared >= (_COMPARED_ROUNDED if rounded else _COMPARED):
            return True
    return not rounded


def _aligned(values: Tensor) -> Tensor:
    """The same, laid out as new tensors are: kernels may depend on strides, and on where memory begins."""
    # Where a dimension is 1, its stride may be anything: convolutions would take some for another order of channels.
    values = values.contiguous().flatten().view(values.shape)
    return values.clone() if values.data_ptr() % _ALIGNMENT else values
