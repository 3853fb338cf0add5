"""Differentiable augmentation: critics see real and generated images changed alike (Zhao et al. 2020).

For small data sets: a critic that never sees the same picture twice cannot learn pictures by heart, and as generated
images go through the same changes, and gradients back through them, the generator does not learn the changes.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from service.losses.regularizers import Regularizer
from service.models.critic_augmentation import AugmentedCritic
from service.models.differentiable_augmentation import DifferentiableAugmentation


class DiffAugment(Regularizer):
    """Colours, places and a hole, drawn anew for every image that a critic sees."""

    colour: bool = True
    #: How far images are moved at most, as a share of their size.
    translation: float = Field(1 / 8, ge=0, lt=1)
    #: The sides of the part that is made grey, as a share of theirs.
    cutout: float = Field(1 / 2, ge=0, le=1)

    def prepare(self, critics: nn.ModuleDict) -> None:
        for game, critic in critics.items():
            augmentation = DifferentiableAugmentation(self.colour, self.translation, self.cutout)
            critics[game] = AugmentedCritic(augmentation, critic)
