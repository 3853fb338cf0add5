"""Convolutions and linear layers whose sums over rows are taken in a chosen way, and type.

Autograd takes a weight's gradient over all rows that a kernel is given, and under autocast in the type of the
product: what is lost by rounding would depend on how many replicas, or chips, there are. Here rows and sums are kept
apart: what belongs to one row is computed in the type that autocast says, and what is summed over rows in the
weight's, as a `RowSums` has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Product(Protocol):
    """A product of rows and a weight. Equal ones are the same kernels."""

    def __call__(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor: ...

    def adjoint(self, gradient: Tensor, rows: Tensor, weight: Tensor) -> Product:
        """The product with the same weight that takes the gradient of what was made to that of `rows`."""

    def to_weight(self, gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        """The gradient of `weight`: a sum over rows."""

    def to_weights(self, gradients: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        """As `to_weight`, of several lots of rows, (lots, n, ...) -> (lots, ...), in one kernel where there is one."""

    def by_row(self, gradient: Tensor) -> Tensor:
        """The gradient of a bias, of each row: (N, O)."""


class RowSums(Protocol):
    """How what involves the rows of one call is computed."""

    def given(self, weight: Tensor) -> Tensor:
        """What stands for a weight in a product: itself, or one for each cell, (cells, ...)."""

    def one(self, weights: Tensor) -> Tensor:
        """The weight again."""

    def each_row(self, product: Product, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The product of all rows."""

    def to_weight(self, product: Product, gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        """The gradient of what `given` has given."""

    def to_bias(self, gradient: Tensor) -> Tensor:
        """Of (N, O), the gradient of what `given` has given for a bias."""


class Sums(Protocol):
    """How what involves many rows is computed."""

    def of(self, rows: Tensor) -> RowSums:
        """Of these rows, (N, ...)."""


class AtOnce:
    """All rows at once."""

    def of(self, rows: Tensor) -> AtOnce:
        return self

    def given(self, weight: Tensor) -> Tensor:
        return weight

    def one(self, weights: Tensor) -> Tensor:
        return weights

    def each_row(self, product: Product, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return product(rows, weight, bias)

    def to_weight(self, product: Product, gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        return product.to_weight(gradient, rows, weight)

    def to_bias(self, gradient: Tensor) -> Tensor:
        return gradient.sum(0)


@dataclass(frozen=True)
class Linear:
    """(..., I) rows and an (O, I) weight -> (..., O); the other way round if it is `transposed`."""

    transposed: bool = False

    def __call__(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        made: Tensor = torch.ops.aten.linear(rows, weight.T if self.transposed else weight, bias)
        return made

    def adjoint(self, gradient: Tensor, rows: Tensor, weight: Tensor) -> Linear:
        return Linear(not self.transposed)

    def to_weight(self, gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        left, right = (rows, gradient) if self.transposed else (gradient, rows)
        return left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])

    def to_weights(self, gradients: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        left, right = (rows, gradients) if self.transposed else (gradients, rows)
        return torch.bmm(left.flatten(1, -2).transpose(1, 2), right.flatten(1, -2))

    def by_row(self, gradient: Tensor) -> Tensor:
        if gradient.dim() == 1:
            return gradient[None]
        return gradient.flatten(1, -2).sum(1) if gradient.dim() > 2 else gradient


@dataclass(frozen=True)
class Convolution:
    """(N, I, H, W) rows -> (N, O, H', W'), with the options of torch.convolution."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)

    def __call__(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.convolution(rows, weight, bias, *self._options())

    def adjoint(self, gradient: Tensor, rows: Tensor, weight: Tensor) -> Convolution:
        if self.transposed:
            return Convolution(self.stride, self.padding, self.dilation, self.groups)
        least = [
            (small - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
            for small, stride, padding, dilation, kernel in zip(
                gradient.shape[2:], self.stride, self.padding, self.dilation, weight.shape[2:], strict=True
            )
        ]
        height, width = rows.shape[2:]
        beyond = height - least[0], width - least[1]  # Pixels that a stride leaves out have no other trace.
        return Convolution(self.stride, self.padding, self.dilation, self.groups, True, beyond)

    def to_weight(self, gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        wanted = False, True, False
        found = torch.ops.aten.convolution_backward(gradient, rows, weight, None, *self._options(), wanted)
        weights: Tensor = found[1]
        return weights

    def to_weights(self, gradients: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        return torch.stack([self.to_weight(*lot, weight) for lot in zip(gradients, rows, strict=True)])

    def by_row(self, gradient: Tensor) -> Tensor:
        return gradient.sum((2, 3))

    def _options(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups


class _Apart(torch.autograd.Function):
    """A product of rows and a weight. Its gradients are such products too, and so have gradients."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weights: Tensor, biases: Tensor | None, product: Product, sums: RowSums
    ) -> Tensor:
        ctx.save_for_backward(rows, weights)
        ctx.how = product, sums
        bias = None if biases is None else sums.one(biases).to(rows.dtype)
        return sums.each_row(product, rows, sums.one(weights).to(rows.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weights = ctx.saved_tensors
        product, sums = ctx.how
        of_rows, of_weight, of_bias, _, _ = ctx.needs_input_grad
        weight, long = sums.one(weights), gradient.to(weights.dtype)
        adjoint = product.adjoint(gradient, rows, weight)
        return (
            _apart(gradient, weights, None, adjoint, sums) if of_rows else None,
            sums.to_weight(product, long, rows.to(weights.dtype), weight) if of_weight else None,
            sums.to_bias(product.by_row(long)) if of_bias else None,
            None,
            None,
        )


def _apart(rows: Tensor, weights: Tensor, biases: Tensor | None, product: Product, sums: RowSums) -> Tensor:
    made: Tensor = _Apart.apply(rows, weights, biases, product, sums)  # type: ignore[no-untyped-call]
    return made


def _product(sums: Sums, rows: Tensor, weight: Tensor, bias: Tensor | None, product: Product) -> Tensor:
    here = sums.of(rows)
    return _apart(rows, here.given(weight), None if bias is None else here.given(bias), product, here)


def _short(rows: Tensor) -> Tensor:
    """Rows in the type that autocast says."""
    device = rows.device.type
    return rows.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else rows


def _linear(sums: Sums, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
    return _product(sums, _short(input), weight, bias, Linear())


def _conv2d(
    sums: Sums,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    rows, along = _short(input), _pair(dilation)
    if padding == "same":
        whole = [by * (kernel - 1) for by, kernel in zip(along, weight.shape[2:], strict=True)]
        top, left = (count // 2 for count in whole)
        rows, padding = F.pad(rows, (left, whole[1] - left, top, whole[0] - top)), 0
    pixels = 0 if isinstance(padding, str) else padding  # "valid".
    product = Convolution(_pair(stride), _pair(pixels), along, groups)
    return _product(sums, rows, weight, bias, product)


def _conv_transpose2d(
    sums: Sums,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    product = Convolution(_pair(stride), _pair(padding), _pair(dilation), groups, True, _pair(output_padding))
    return _product(sums, _short(input), weight, bias, product)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return first, rest[0] if rest else first


PRODUCTS: Mapping[Any, Callable[..., Tensor]] = {
    F.linear: _linear,
    F.conv2d: _conv2d,
    F.conv_transpose2d: _conv_transpose2d,
}


class Products(TorchFunctionMode):
    """Within, convolutions over images and linear layers are taken as `sums` has it.

    Attributes:
        instead: torch's functions, and what is called in their place, with the sums before their arguments.
    """

    instead: ClassVar[Mapping[Any, Callable[..., Tensor]]] = PRODUCTS

    def __init__(self, sums: Sums) -> None:
        super().__init__()
        self._sums = sums

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = self.instead.get(function)
        return function(*args, **kwargs or {}) if found is None else found(self._sums, *args, **kwargs or {})
