"""What critics are shown in place of images while they are trained: each image changed, as its row's draws say."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn


class CriticAugmentation(nn.Module):
    """Images as a critic sees them. `service.replicas.global_layers` keys the draws by row.

    Attributes:
        uniform_draws, normal_draws: how many values of each kind an image takes.
    """

    uniform_draws: ClassVar[int]
    normal_draws: ClassVar[int] = 0

    def forward(self, *images: Tensor) -> list[Tensor]:
        """(N, C, H, W) in [-1, 1], several of a row if they go together: they are changed alike."""
        if not self.training:
            return list(images)
        rows, device = len(images[0]), images[0].device
        uniform = torch.rand(rows, self.uniform_draws, device=device)
        normal = torch.randn(rows, self.normal_draws, device=device) if self.normal_draws else None
        return [self.changed(of_rows, uniform, normal) for of_rows in images]

    @abstractmethod
    def changed(self, images: Tensor, uniform: Tensor, normal: Tensor | None = None) -> Tensor:
        """Images, each as its row of the draws, (N, draws), says."""


class AugmentedCritic(nn.Module):
    """A critic behind an augmentation."""

    def __init__(self, augmentation: CriticAugmentation, critic: nn.Module) -> None:
        super().__init__()
        self.augmentation: nn.Module = augmentation
        self.critic = critic

    def forward(self, images: Tensor, *given: Tensor) -> Tensor:
        if given and given[0].dim() == images.dim():  # Images too, such as what a translation is made of.
            images, *given_changed = self.augmentation(images, *given)
            given = tuple(given_changed)
        else:
            (images,) = self.augmentation(images)
        outputs: Tensor = self.critic(images, *given)
        return outputs
