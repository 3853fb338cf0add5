"""Relativistic losses (Jolicoeur-Martineau 2018, arXiv:1807.00734; her code, AlexiaJM/RelativisticGAN)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from service.losses.objectives import Objective, Scores, batch_mean


class Relativistic(Objective):
    """How much more real than fake images the critic holds real ones to be, and the other way round.

    `loss` is what is made of a difference: ``bce`` (RaSGAN), ``least_squares`` (RaLSGAN), ``hinge`` (RaHinge).
    `against` is what a sample is compared with: the other kind's batch mean, or its partner (RSGAN and the like).
    """

    relative: ClassVar[bool] = True
    critic_factor: ClassVar[float] = 0.5
    loss: Literal["bce", "least_squares", "hinge"] = "bce"
    against: Literal["mean", "partner"] = "mean"
    #: Of least squares, what the critic is to say of fakes: -1 (the author's, "cooperative") or 0 ("competitive").
    fake_target: Literal[-1, 0] = -1

    @property
    def slopes_on_fakes(self) -> bool:  # type: ignore[override]
        return self.loss != "hinge"

    @model_validator(mode="after")
    def _target(self) -> Relativistic:
        if self.fake_target == 0 and self.loss != "least_squares":
            raise ValueError(f"fake_target 0 is of loss=least_squares; {self.loss} has none")
        return self

    def generator(self, fake: Scores, real: Scores) -> Tensor:
        up, down = self._differences(fake.logits, real.logits)
        # With partners the two differences are one, seen from both sides, and so are their losses.
        return (self._high(up) + self._low(down, -1)) / 2

    def critic(self, fake: Scores, real: Scores) -> tuple[Tensor, Tensor]:
        up, down = self._differences(real.logits, fake.logits)
        return self._high(up), self._low(down, self.fake_target)

    def _differences(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """Of what is to be high from what is to be low, and the other way round."""
        if self.against == "partner":
            return high - low, low - high
        return high - low.mean(1, keepdim=True), low - high.mean(1, keepdim=True)

    def _high(self, difference: Tensor) -> Tensor:
        if self.loss == "bce":
            return batch_mean(F.softplus(-difference))
        if self.loss == "hinge":
            return batch_mean(F.relu(1 - difference))
        return batch_mean((difference - 1).square())

    def _low(self, difference: Tensor, target: int) -> Tensor:
        if self.loss == "bce":
            return batch_mean(F.softplus(difference))
        if self.loss == "hinge":
            return batch_mean(F.relu(1 + difference))
        return batch_mean((difference - target).square())
