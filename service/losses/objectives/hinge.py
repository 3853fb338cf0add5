"""The hinge loss (Lim and Ye 2017, arXiv:1705.02894), as in SN-GAN and BigGAN."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from service.losses.objectives import Objective, Scores, batch_mean


class Hinge(Objective):
    """``E relu(1 - r) + E relu(1 + f)`` for the critic, ``-E f`` for the generator."""

    non_negative: ClassVar[bool] = False
    slopes_on_fakes: ClassVar[bool] = False

    def generator(self, fake: Scores, real: Scores) -> Tensor:
        return -batch_mean(fake.logits)

    def critic(self, fake: Scores, real: Scores) -> tuple[Tensor, Tensor]:
        return batch_mean(F.relu(1 - real.logits)), batch_mean(F.relu(1 + fake.logits))

    def verdicts(self, logits: Tensor) -> Tensor:
        return logits.sign()
