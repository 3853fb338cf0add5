"""Terms: further losses of the generator's images, one a file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from pipelines.components import Component

#: Images made and, where there are pairs, those that they should be, (N, C, H, W) each -> a weighted loss, (N,).
Distance = Callable[[Tensor, Tensor | None], Tensor]


class Term(Component):
    """A loss of what the generator makes."""

    #: Whether it compares with the image that should have been made, which a data set of pairs has.
    needs_pairs: ClassVar[bool] = False
    weight: float = Field(1.0, ge=0)

    def check(self) -> None:
        """Raise ConfigError if what it needs is missing."""

    @abstractmethod
    def build(self, device: torch.device, dtype: torch.dtype) -> Distance:
        """The loss, at work on a device."""
