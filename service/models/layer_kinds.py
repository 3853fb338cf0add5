"""Kinds of layers that need more than a row: some look at the batch, some make their weights, calls change some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from service.models.minibatch import MinibatchLayer
from service.models.norms import SwitchableNorm

_LOOK_AT_THE_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, MinibatchLayer, SwitchableNorm)

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """What a call has found, in its order, for when it is made again: then `begin` comes first."""

    def __init__(self) -> None:
        self._values: list[Value] = []
        self._next = 0

    def begin(self) -> None:
        self._next = 0

    def next(self, find: Callable[[], Value]) -> Value:
        """The next value: found now, if no call has come here before."""
        if self._next == len(self._values):
            self._values.append(find())
        self._next += 1
        return self._values[self._next - 1]


class ChangedByCalls:
    """A layer that every call changes, as spectral norm's power iteration does.

    Attributes:
        kept: while it is set, calls are one call made again, which changes the layer once.
    """

    kept: Kept[tuple[Tensor, ...]] | None = None


class MakesWeight:
    """A layer that computes, at every call, the weight of its product from its parameters."""


def layers_that_make_weights(network: nn.Module) -> list[str]:
    """The paths of layers whose weight is computed at every call, by themselves or by a parametrization."""
    return [
        path for path, module in network.named_modules() if isinstance(module, MakesWeight) or is_parametrized(module)
    ]


def layers_that_look_at_the_batch(network: nn.Module) -> list[str]:
    """The paths and kinds of layers such as batch norm, of a network for one device."""
    return [
        f"{path} ({type(module).__name__})"
        for path, module in network.named_modules()
        if isinstance(module, _LOOK_AT_THE_BATCH)
    ]
