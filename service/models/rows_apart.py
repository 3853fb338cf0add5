"""What a network's layers look at, or do, beside each sample."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from service.models.blocks import EqualisedConv, EqualisedLinear
from service.models.minibatch import MinibatchLayer
from service.models.norms import SwitchableNorm

_LOOK_AT_THE_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, MinibatchLayer, SwitchableNorm)


class ChangedByCalls:
    """A layer that every call changes, as spectral norm's power iteration does.

    Attributes:
        keep_in: while it is a list, calls are one call made again: it holds what the first one found, if there was one.
    """

    keep_in: list[Any] | None = None


def layers_that_make_weights(network: nn.Module) -> list[str]:
    """The paths of layers whose weight is computed from another at every call."""
    return [
        path
        for path, module in network.named_modules()
        if isinstance(module, EqualisedConv | EqualisedLinear) or is_parametrized(module)
    ]


def layers_that_look_at_the_batch(network: nn.Module) -> list[str]:
    """The paths and kinds of layers such as batch norm, of a network for one device."""
    return [
        f"{path} ({type(module).__name__})"
        for path, module in network.named_modules()
        if isinstance(module, _LOOK_AT_THE_BATCH)
    ]
