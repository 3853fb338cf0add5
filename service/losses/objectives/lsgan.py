"""Least squares (Mao et al. 2017, arXiv:1611.04076)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from service.losses.objectives import Objective, Scores, batch_mean
from service.losses.objectives.bce import target_of


class LeastSquares(Objective):
    """Squared distances of logits from 1, real, and 0, fake.

    The paper halves all of them. PyTorch-GAN and SelfGAN halve the critic's alone: their `generator_factor` is 1.
    """

    critic_factor: ClassVar[float] = 0.5
    generator_factor: float = Field(0.5, gt=0)
    #: Two different targets are drawn between, for every sample.
    real_target: tuple[float, float] = (1.0, 1.0)

    def generator(self, fake: Scores, real: Scores) -> Tensor:
        return self.generator_factor * batch_mean((fake.logits - 1).square())

    def critic(self, fake: Scores, real: Scores) -> tuple[Tensor, Tensor]:
        on_real = (real.logits - target_of(real, self.real_target)).square()
        return batch_mean(on_real), batch_mean(fake.logits.square())

    def validity(self, logits: Tensor) -> Tensor:
        return logits
