"""Cosine similarity of critic vectors: the "SimGAN" of rezer0dai's info-cycle-sim-gan.

A sample is compared with the mean vector of the other side's samples of its own kind. Outputs go through a
sigmoid, so cosines lie in (0, 1] and the critic's best is orthogonality.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from service.losses.objectives import Objective, Scores

_EPS = 1e-12


class SimCosine(Objective):
    """`trains` says whose loss this is; the other's is relativistic least squares, as the author combines them.

    `per_kind` adds the comparisons within each kind to the generator's; without it, only the means of the whole
    batch are compared.
    """

    relative: ClassVar[bool] = True
    least_outputs: ClassVar[int] = 2
    trains: Literal["both", "generator", "critic"] = "both"
    per_kind: bool = True
    margin: float = 0.0

    def generator(self, fake: Scores, real: Scores) -> Tensor:
        if self.trains == "critic":
            return _least_squares(fake, real, -1)
        ours, theirs = torch.sigmoid(fake.logits), torch.sigmoid(real.logits).detach()
        whole = 1 - F.cosine_similarity(ours.mean(1), theirs.mean(1), dim=-1, eps=_EPS)
        if not self.per_kind:
            return whole
        of_fake, of_real = _kinds(fake), _kinds(real)
        from_real = _of_kinds(1 - _cosines(theirs, ours, of_fake), of_real, of_fake)
        from_fake = _of_kinds(1 - _cosines(ours, theirs, of_real), of_fake, of_real)
        return ((from_real + from_fake) / 2 + whole) / 2

    def critic(self, fake: Scores, real: Scores) -> tuple[Tensor, Tensor]:
        if self.trains == "generator":
            half = _least_squares(real, fake, -1)
            return half, half
        ours, theirs = torch.sigmoid(fake.logits), torch.sigmoid(real.logits)
        of_fake, of_real = _kinds(fake), _kinds(real)
        on_real = F.relu(_cosines(theirs, ours, of_fake) - self.margin)
        on_fake = F.relu(_cosines(ours, theirs, of_real) - self.margin)
        return _of_kinds(on_real, of_real, of_fake), _of_kinds(on_fake, of_fake, of_real)


def _kinds(scores: Scores) -> Tensor:
    """(shards, S, K), one-hot."""
    return torch.ones_like(scores.logits[..., :1]) if scores.kinds is None else scores.kinds


def _cosines(vectors: Tensor, others: Tensor, kinds: Tensor) -> Tensor:
    """(shards, S, K): of every sample's vector with the mean vector of each kind of the others."""
    counts = kinds.sum(1).clamp_min(1)[..., None]
    means = kinds.transpose(1, 2) @ others / counts
    return F.cosine_similarity(vectors[:, :, None], means[:, None], dim=-1, eps=_EPS)


def _of_kinds(values: Tensor, kinds: Tensor, other_kinds: Tensor) -> Tensor:
    """(shards, S, K) values -> (shards,): the mean over kinds that both sides have of the mean over their samples."""
    counts = kinds.sum(1)
    both = ((counts > 0) & (other_kinds.sum(1) > 0)).to(values.dtype)
    means = (values * kinds).sum(1) / counts.clamp_min(1)
    return (means * both).sum(1) / both.sum(1).clamp_min(1)


def _least_squares(high: Scores, low: Scores, target: int) -> Tensor:
    """Relativistic least squares of the vectors' means, as the author's ``IPMBackwardLoss`` has it."""
    up = (high.logits - low.logits.mean(1, keepdim=True)).mean(2)
    down = (low.logits - high.logits.mean(1, keepdim=True)).mean(2)
    return ((up - 1).square().mean(1) + (down - target).square().mean(1)) / 2
