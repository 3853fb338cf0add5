"""Networks: a generator and the critic that judges it, one family a file.

They are plain torch modules, written for one device. Critics return logits. How a network is made to follow
the global batch is `service.layers`' business.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from pydantic import Field
from torch import nn

from service.components import Component


class ImageShape(NamedTuple):
    """Channels, height and width of the images a run trains on."""

    channels: int
    height: int
    width: int


class Network(Component):
    """A family of architectures; its fields are the options of both parts."""

    latent_dim: int = Field(100, ge=1)

    @abstractmethod
    def generator(self, image: ImageShape) -> nn.Module:
        """A module from latents (N, latent_dim) to images (N, C, H, W) in [-1, 1]."""

    @abstractmethod
    def critic(self, image: ImageShape) -> nn.Module:
        """A module from images (N, C, H, W) to logits (N,)."""

    def check(self, image: ImageShape) -> None:
        """Raise ValueError, with the reason, if the family cannot make images of this shape."""
