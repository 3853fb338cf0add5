"""Balances: the weights of the three losses of a joint step, one rule a file.

A rule says how badly each part does over the batch, its *strength*; the form turns strengths into weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, model_validator
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

    ``applied_to`` says what is multiplied: the losses, as in the paper, or each network's update, which is to say its
    learning rate at that step. Adam divides a loss's weight away again; this one stays. The losses then have the
    weights of equal strengths, and a network whose terms do badly moves further.
    """

    form: Literal["weighted", "normalised"] = "weighted"
    gradient: Literal["through", "detached"] = "through"
    applied_to: Literal["loss", "update"] = "loss"
    generator_share: float = Field(0.1, ge=0)
    fake_share: float = Field(0.9, ge=0)

    @model_validator(mode="after")
    def _updates_the_generator(self) -> Balance:
        if self.applied_to == "update" and not self.generator_share:
            raise ValueError(
                "a generator without a share has no update to weigh; set generator_share or applied_to=loss"
            )
        return self

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
        return self._formed(strengths.detach() if self.gradient == "detached" else strengths)

    def of_losses(self, weights: Tensor) -> Tensor:
        """What losses are multiplied by: (..., 3, shards), or (3, 1) for any."""
        return weights if self.applied_to == "loss" else self._formed(weights.new_ones(3, 1))

    def of_updates(self, weights: Tensor) -> Tensor | None:
        """What the updates of the generator and of the critics are multiplied by, if they are.

        Args:
            weights: (games, 3, shards).

        Returns:
            (2,): the weight of a network's own terms over that of equal strengths.
        """
        if self.applied_to == "loss":
            return None
        now, equal = weights.mean((0, 2)), self._formed(weights.new_ones(3, 1)).flatten()
        return torch.stack([now[0] / equal[0], now[1:].sum() / equal[1:].sum()])

    def _formed(self, strengths: Tensor) -> Tensor:
        if self.form == "normalised":
            return strengths / strengths.sum(0)
        generator, _, fake = strengths
        real = torch.ones_like(generator)
        return torch.stack([self.generator_share * generator, real, self.fake_share * fake]) / 2
