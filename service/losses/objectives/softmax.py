"""Softmax GAN (Lin 2017, arXiv:1704.06191): one softmax over all samples of the batch, real and fake."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from service.losses.objectives import Objective, Scores, batch_mean


class Softmax(Objective):
    """The critic spreads probability over the real samples, the generator over all; ``log Z`` is the batch's.

    The paper's critic is low for what is real; here it is high, as everywhere.
    """

    non_negative: ClassVar[bool] = False
    relative: ClassVar[bool] = True

    def generator(self, fake: Scores, real: Scores) -> Tensor:
        return _log_partition(fake, real) - (batch_mean(real.logits) + batch_mean(fake.logits)) / 2

    def critic(self, fake: Scores, real: Scores) -> tuple[Tensor, Tensor]:
        return -batch_mean(real.logits), _log_partition(fake, real)


def _log_partition(fake: Scores, real: Scores) -> Tensor:
    """``log(sum exp r + sum exp f)``, (shards,); the mean over a patch critic's outputs."""
    return torch.cat([fake.logits, real.logits], 1).logsumexp(1).mean(1)
