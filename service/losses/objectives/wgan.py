"""The Wasserstein distance's dual (Arjovsky et al. 2017, arXiv:1701.07875); the critic needs a Lipschitz bound."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from service.losses.objectives import Objective, Scores, batch_mean


class Wasserstein(Objective):
    """``E f - E r`` for the critic, ``-E f`` for the generator: real images are given the high values.

    The author's code has all signs exchanged. `drift` adds ``drift * E r^2`` (Karras et al. 2018,
    arXiv:1710.10196: 0.001), which keeps values near 0.
    """

    non_negative: ClassVar[bool] = False
    drift: float = Field(0.0, ge=0)

    def generator(self, fake: Scores, real: Scores) -> Tensor:
        return -batch_mean(fake.logits)

    def critic(self, fake: Scores, real: Scores) -> tuple[Tensor, Tensor]:
        return batch_mean(self.drift * real.logits.square() - real.logits), batch_mean(fake.logits)
