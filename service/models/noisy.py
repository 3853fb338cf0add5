"""Linear layers with parametric noise (NoisyNet: Fortunato et al. 2018, arXiv:1706.10295), of several heads."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.models.layer_kinds import MakesWeight


class Rows(Protocol):
    """Which samples of a batch are at hand."""

    @property
    def rows(self) -> Tensor:
        """(N,) their numbers."""
        ...


class NoisyHeads(nn.Module, MakesWeight):
    """``x (W + sigma_h * noise)^T`` for each of some heads h, which share W and the noise and learn their own sigma.

    Sample i is of head i mod heads. Source: rezer0dai/rewheeler, whose noise is drawn once; the paper has a noisy
    bias besides.

    Attributes:
        batch: numbers the samples; `service.replicas.global_layers` sets it to the global batch. Without one they
            count from 0.
    """

    noise: Tensor

    def __init__(self, inputs: int, outputs: int, heads: int, deviation: float) -> None:
        super().__init__()
        self.heads = heads
        bound = (3 / inputs) ** 0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.deviation = nn.Parameter(torch.full((heads, outputs, inputs), deviation))
        self.register_buffer("noise", torch.randn(outputs, inputs))
        self.batch: Rows | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        follows = self.training and self.batch is not None
        rows = self.batch.rows if follows else torch.arange(len(x), device=x.device)  # type: ignore[union-attr]
        weights = self.weight + self.deviation * self.noise
        of_heads = F.linear(x, weights.flatten(0, 1)).unflatten(1, weights.shape[:2])
        chosen = torch.remainder(rows, self.heads)[:, None, None].expand(-1, 1, of_heads.shape[2])
        own: Tensor = of_heads.gather(1, chosen)[:, 0]
        return own
