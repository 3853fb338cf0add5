"""Several critics of one game, which learn apart from each other; some may look at smaller images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipelines.components import Options
from service.models.networks import ImageShape, Network
from service.tasks import Task


class CriticRole(NamedTuple):
    """A critic's place: the game it judges, and how often its images are halved."""

    game: str
    halvings: int


class CriticSet(Options):
    """Who judges a game. The generator's loss is the mean over its critics, and each has weights of its own.

    Multi-scale critics are the dog report's and pix2pixHD's (Wang et al. 2018, arXiv:1711.11585): the same
    architecture at full, half and quarter size. The report's source takes the largest of 2x2 pixels, pix2pixHD the
    average of 3x3.
    """

    count: int = Field(1, ge=1, description="critics at each scale")
    scales: int = Field(1, ge=1, description="scales, each half the size of the one before")
    pooling: Literal["max", "average"] = Field(
        "max", description="make images smaller by the largest (max) or the average of neighbouring pixels"
    )

    def roles(self, games: Sequence[str]) -> dict[str, CriticRole]:
        """By the critics' names; the first of a game has the game's name."""
        found = {}
        for game in games:
            for number in range(self.count * self.scales):
                found[f"{game}_{number + 1}" if number else game] = CriticRole(game, number // self.count)
        return found

    def shapes(self, image: ImageShape) -> list[ImageShape]:
        """What critics are shown, from the largest on."""
        shapes = [ImageShape(image.channels, image.height >> n, image.width >> n) for n in range(self.scales)]
        return [shape for shape in shapes if min(shape) > 0]

    def check(self, network: Network, image: ImageShape) -> None:
        """Raise ValueError, with the reason, if the network cannot judge the smallest images."""
        if self.scales == 1:
            return
        if network.last_stage(image):
            raise ValueError("critics.scales: a network that grows has its own sizes; set critics.scales=1")
        for number in range(self.scales):
            if image.height % 2**number or image.width % 2**number:
                raise ValueError(f"critics.scales: {image.height}x{image.width} cannot be halved {number} times")
        try:
            for shape in self.shapes(image):
                network.check(shape)
        except ValueError as error:
            raise ValueError(f"critics.scales: {error}, or critics.scales lower") from error

    def critics(self, task: Task, network: Network, image: ImageShape) -> nn.ModuleDict:
        """New ones, by name."""
        shapes = self.shapes(image)
        built = nn.ModuleDict()
        for name, role in self.roles(task.games).items():
            critic = task.critic(network, shapes[role.halvings])
            built[name] = _Shrinking(critic, role.halvings, self.pooling) if role.halvings else critic
        return built


class _Shrinking(nn.Module):
    """A critic that is shown smaller images; so are images that they are given with."""

    def __init__(self, critic: nn.Module, halvings: int, pooling: Literal["max", "average"]) -> None:
        super().__init__()
        self.critic, self.halvings, self.pooling = critic, halvings, pooling

    def forward(self, images: Tensor, *given: Tensor) -> Tensor:
        logits: Tensor = self.critic(
            *(self._shrunk(value) if value.dim() == 4 else value for value in (images, *given))
        )
        return logits

    def _shrunk(self, images: Tensor) -> Tensor:
        for _ in range(self.halvings):
            if self.pooling == "max":
                images = F.max_pool2d(images, 2)
            else:
                images = F.avg_pool2d(images, 3, 2, 1, count_include_pad=False)
        return images
