"""Networks: a generator and its critic, one architecture a file.

They are plain torch modules, written for one device. Critics return logits. How a network is made to follow
the global batch is `service.replicas.global_layers`' business, and what they are given beside noise or images a task's.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from pydantic import Field
from torch import nn

from pipelines.components import Component

#: Side of what networks for squares make first, which double it again and again.
_START = 4
#: What to do where there is no start.
SET_SIZE = (
    "set data.transform.size to a power of 2, or to [height, width] of which one is such a side and the other a "
    "multiple of a quarter of it"
)


class ImageShape(NamedTuple):
    """Channels, height and width of the images a run trains on."""

    channels: int
    height: int
    width: int

    @property
    def size(self) -> str:
        """For a person: 64x64, or 64x32 (height x width)."""
        told = "" if self.height == self.width else " (height x width)"
        return f"{self.height}x{self.width}{told}"

    def starts(self) -> dict[int, tuple[int, int]]:
        """By how often it is to be doubled, a height and width to start from, of which one is 4.

        Squares have one start at most: 4x4. Images of 64x32 can start at 8x4 and at 4x2, those of 28x28 nowhere.
        """
        sides = {times: (self.height >> times, self.width >> times) for times in range(max(self[1:]).bit_length())}
        return {
            times: (height, width)
            for times, (height, width) in sides.items()
            if _START in (height, width) and (height << times, width << times) == self[1:]
        }


class Network(Component):
    """A family of architectures; its fields are the options of both parts."""

    @abstractmethod
    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        """A module from images (N, C, H, W) to (N, F + heads): F logits, and what else it is to say of them."""

    def check(self, image: ImageShape) -> None:
        """Raise ValueError, with the reason, if the family cannot make images of this shape."""

    def last_stage(self, image: ImageShape) -> int:
        """How often networks grow while they train (`service.models.growth`); 0 for those that do not."""
        return 0

    def stage(self, image: ImageShape, seen: int) -> float:
        """How far the networks are to have grown after `seen` real images."""
        return float(self.last_stage(image))


class LatentNetwork(Network):
    """A family whose generator makes images of vectors."""

    latent_dim: int = Field(100, ge=1)

    @abstractmethod
    def generator(self, image: ImageShape, inputs: int) -> nn.Module:
        """A module from vectors (N, inputs) to images (N, C, H, W) in [-1, 1]."""


class ClassNetwork(LatentNetwork):
    """A family whose networks take an image's class themselves.

    To those of other families, tasks show it as further inputs, and as one more channel of the image.
    """

    @abstractmethod
    def class_generator(self, image: ImageShape, inputs: int, classes: int) -> nn.Module:
        """A module from vectors (N, inputs + classes), of which the last say the class, one-hot, to images."""

    @abstractmethod
    def class_critic(self, image: ImageShape, classes: int) -> nn.Module:
        """A module from images, and one-hot classes (N, classes), to logits (N, F)."""


class TranslationNetwork(Network):
    """A family whose generator makes images of images."""

    @abstractmethod
    def translator(self, source: ImageShape, image: ImageShape) -> nn.Module:
        """A module from images of the source's shape to images (N, C, H, W) in [-1, 1], as high and as wide."""
