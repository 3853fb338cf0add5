"""What a network's layers look at, or do, beside each sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from service.models.blocks import EqualisedConv, EqualisedLinear
from service.models.minibatch import MinibatchLayer
from service.models.norms import SwitchableNorm

_LOOK_AT_THE_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, MinibatchLayer, SwitchableNorm)


class ChangedByCalls(ABC):
    """A layer that every call changes, as spectral norm's power iteration does. A call can be made again."""

    @abstractmethod
    def last_call(self) -> Any:
        """What `again` takes."""

    @abstractmethod
    @contextmanager
    def again(self, call: Any) -> Iterator[None]:
        """Within, calls give what that one gave, and change nothing."""


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
