"""Tasks: what the networks are shown, one task a file."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from service.batch import GlobalBatch
from service.components import Component
from service.networks import ImageShape, Network


class Task(Component):
    """What a generator is given, and which images it makes of it."""

    @abstractmethod
    def inputs(self, network: Network, batch: GlobalBatch) -> Tensor:
        """The generator's input for the batch's present rows."""

    @abstractmethod
    def examples(self, network: Network, seed: int, count: int, device: torch.device) -> Tensor:
        """The same `count` inputs whenever `seed` is the same, anywhere: for samples and for users."""

    def check(self, network: Network, image: ImageShape) -> None:
        """Raise ValueError, with the reason, if the networks cannot do the task."""
        network.check(image)

    def build(self, network: Network, image: ImageShape) -> tuple[nn.Module, nn.Module]:
        """A new generator and a new critic."""
        return network.generator(image), network.critic(image)
