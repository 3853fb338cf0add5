"""Binary cross entropy, non-saturating for the generator (Goodfellow et al. 2014, arXiv:1406.2661)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from service.objectives import Objective


class BinaryCrossEntropy(Objective):
    """``-log p`` where the target is 1 and ``-log(1 - p)`` where it is 0, with p the logits' sigmoid."""

    def generator(self, logits: Tensor) -> Tensor:
        return F.softplus(-logits)

    def real(self, logits: Tensor) -> Tensor:
        return F.softplus(-logits)

    def fake(self, logits: Tensor) -> Tensor:
        return F.softplus(logits)

    def validity(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)
