"""Convolutions and linear layers in a short type, whose weights' gradients are summed over the batch in the weights'.

Autocast alone computes a weight's gradient in the type of the product: each replica, or chip, would round its part of
the sum, and what is lost would depend on how many there are. Here only what belongs to one row is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class ShortProducts(TorchFunctionMode):
    """Within, convolutions over images and linear layers compute in `dtype`, and gradients of weights in theirs."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        short = _SHORT.get(function)
        return function(*args, **kwargs or {}) if short is None else short(self._dtype, *args, **kwargs or {})


class Product(Protocol):
    """A product of rows and a weight."""

    def __call__(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor: ...

    def adjoint(self, gradient: Tensor, rows: Tensor, weight: Tensor) -> Product:
        """The product with the same weight that takes the gradient of what was made to that of `rows`."""

    def to_weight(self, gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        """The gradient of `weight`: a sum over rows."""

    def to_bias(self, gradient: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Linear:
    """(..., I) rows and an (O, I) weight -> (..., O); the other way round if it is `transposed`."""

    transposed: bool = False

    def __call__(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(rows, weight.T if self.transposed else weight, bias)

    def adjoint(self, gradient: Tensor, rows: Tensor, weight: Tensor) -> Linear:
        return Linear(not self.transposed)

    def to_weight(self, gradient: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
        left, right = (rows, gradient) if self.transposed else (gradient, rows)
        return left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])

    def to_bias(self, gradient: Tensor) -> Tensor:
        return gradient.reshape(-1, gradient.shape[-1]).sum(0)


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

    def to_bias(self, gradient: Tensor) -> Tensor:
        return gradient.sum((0, 2, 3))

    def _options(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups


class _Short(torch.autograd.Function):
    """A product of short rows and a long weight. Its gradients are such products too, and so have gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, product: Product) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.product = product
        return product(rows, weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        product, (of_rows, of_weight, of_bias, _) = ctx.product, ctx.needs_input_grad
        long = gradient.to(weight.dtype)
        return (
            _short(gradient, weight, None, product.adjoint(gradient, rows, weight)) if of_rows else None,
            product.to_weight(long, rows.to(weight.dtype), weight) if of_weight else None,
            product.to_bias(long) if of_bias else None,
            None,
        )


def _short(rows: Tensor, weight: Tensor, bias: Tensor | None, product: Product) -> Tensor:
    made: Tensor = _Short.apply(rows, weight, bias, product)  # type: ignore[no-untyped-call]
    return made


def _linear(dtype: torch.dtype, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
    return _short(input.to(dtype), weight, bias, Linear())


def _conv2d(
    dtype: torch.dtype,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    rows, along = input.to(dtype), _pair(dilation)
    if padding == "same":
        whole = [by * (kernel - 1) for by, kernel in zip(along, weight.shape[2:], strict=True)]
        top, left = (count // 2 for count in whole)
        rows, padding = F.pad(rows, (left, whole[1] - left, top, whole[0] - top)), 0
    pixels = 0 if isinstance(padding, str) else padding  # "valid".
    product = Convolution(_pair(stride), _pair(pixels), along, groups)
    return _short(rows, weight, bias, product)


def _conv_transpose2d(
    dtype: torch.dtype,
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
    return _short(input.to(dtype), weight, bias, product)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return first, rest[0] if rest else first


_SHORT: Mapping[Any, Callable[..., Tensor]] = {
    F.linear: _linear,
    F.conv2d: _conv2d,
    F.conv_transpose2d: _conv_transpose2d,
}
