"""Balances: the weights of the three losses of a joint step, one rule a file.

A rule says how badly each part does over the batch, its *strength*; the form turns strengths into weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pipelines.components import Component
from service.losses.objectives import Objective

#: The terms of a joint step, in the order in which tensors hold them.
TERMS = ("generator", "real", "fake")


class Balance(Component):
    """Dynamic loss weights.

    ``form`` is ``weighted``, as on the paper's GPU (generator 0.1, fake 0.9, real 1, all halved), or
    ``normalised``, as on its TPU (each strength over the sum of the three). ``gradient`` says whether the
    weights are differentiated with the losses (the author's code does) or held fixed.
    """

    form: Literal["weighted", "normalised"] = "weighted"
    gradient: Literal["through", "detached"] = "through"
    generator_share: float = Field(0.1, ge=0)
    fake_share: float = Field(0.9, ge=0)

    def check(self, objective: Objective) -> None:
        """Raise ValueError, with the reason, if the objective's terms cannot be weighted so."""

    @abstractmethod
    def strengths(self, losses: Tensor, validities: Callable[[], Tensor]) -> Tensor:
        """How badly each term does.

        Args:
            losses: (3, shards), batch means of the terms' losses, ordered as `TERMS`.
            validities: gives (3, shards), batch means of how real the critic held the samples, likewise.

        Returns:
            (3, shards).
        """

    def weights(self, losses: Tensor, validities: Callable[[], Tensor]) -> Tensor:
        """(3, shards) weights of the terms, from their batch means."""
        strengths = self.strengths(losses, validities)
        if self.gradient == "detached":
            strengths = strengths.detach()
        if self.form == "normalised":
            return strengths / strengths.sum(0)
        generator, _, fake = strengths
        real = torch.ones_like(generator)
        return torch.stack([self.generator_share * generator, real, self.fake_share * fake]) / 2
