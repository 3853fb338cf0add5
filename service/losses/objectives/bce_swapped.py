"""Keras' binary cross entropy with its arguments exchanged, as SelfGAN's TPU notebooks call it.

They pass the validity v as the label and the target as the prediction. Keras clips predictions to
[e, 1 - e], e = 1e-7, in float32, so the loss is linear in v. The published TPU results were trained with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from service.losses.objectives import Objective, Scores, batch_mean

#: -log(e), and -log(1 - (1 - e)) with the inner 1 - e rounded to float32, where it is 1 - 2**-23.
_MISS_LOW = -math.log(1e-7)
_MISS_HIGH = 23 * math.log(2.0)
_HIT_LOW = -math.log1p(-1e-7)
_HIT_HIGH = -math.log1p(-(2.0**-23))


class SwappedBinaryCrossEntropy(Objective):
    """About 15.94 (1 - v) where the target is 1, and 16.12 v where it is 0."""

    def generator(self, fake: Scores, real: Scores) -> Tensor:
        return self._towards_one(fake)

    def critic(self, fake: Scores, real: Scores) -> tuple[Tensor, Tensor]:
        validity = self.validity(fake.logits)
        on_fake = _MISS_LOW * validity + _HIT_LOW * (1.0 - validity)
        return self._towards_one(real), batch_mean(on_fake)

    def _towards_one(self, judged: Scores) -> Tensor:
        validity = self.validity(judged.logits)
        return batch_mean(_HIT_HIGH * validity + _MISS_HIGH * (1.0 - validity))

    def validity(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)
