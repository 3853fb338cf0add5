"""Binary cross entropy (Goodfellow et al. 2014, arXiv:1406.2661), by default non-saturating for the generator."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from service.losses.objectives import Objective, Scores, batch_mean


class BinaryCrossEntropy(Objective):
    """``-log p`` where the target is 1 and ``-log(1 - p)`` where it is 0, with p the logits' sigmoid.

    The factor is that of SelfGAN's notebooks and PyTorch-GAN. Real targets below 1 are one-sided label smoothing
    (Salimans et al. 2016, arXiv:1606.03498); two different ones are drawn between, for every sample.
    """

    critic_factor: ClassVar[float] = 0.5
    #: Whether the generator minimises ``log(1 - p)``, as in the minimax game, which hardly moves it at first.
    saturating: bool = False
    real_target: tuple[float, float] = (1.0, 1.0)

    @model_validator(mode="after")
    def _targets(self) -> BinaryCrossEntropy:
        low, high = self.real_target
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"real_target must be two numbers above 0 and at most 1, the lower first, such as [0.7, 1.0], not "
                f"{list(self.real_target)}; lsgan takes others"
            )
        return self

    @property
    def non_negative(self) -> bool:  # type: ignore[override]
        return not self.saturating

    def generator(self, fake: Scores, real: Scores) -> Tensor:
        if self.saturating:
            return -batch_mean(F.softplus(fake.logits))
        return batch_mean(F.softplus(-fake.logits))

    def critic(self, fake: Scores, real: Scores) -> tuple[Tensor, Tensor]:
        on_fake = batch_mean(F.softplus(fake.logits))
        if self.real_target == (1.0, 1.0):
            return batch_mean(F.softplus(-real.logits)), on_fake
        target = target_of(real, self.real_target)
        on_real = target * F.softplus(-real.logits) + (1 - target) * F.softplus(real.logits)
        return batch_mean(on_real), on_fake

    def validity(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)


def target_of(real: Scores, between: tuple[float, float]) -> Tensor:
    """(shards, S, 1) targets for real samples, uniform between two values."""
    low, high = between
    return low + (high - low) * real.draw("real target").to(real.logits.dtype)
