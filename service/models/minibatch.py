"""Layers through which a critic sees how the samples of a batch differ, against generators that repeat themselves."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MinibatchLayer(nn.Module):
    """Appends to every sample what a statistic of the whole batch says of it."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (N, C) -> the same with more channels."""
        return self.join(x, self.statistic(self.project(x)))

    def project(self, x: Tensor) -> Tensor:
        """(N, K), what of each sample the statistic is of."""
        return x.flatten(1)

    @abstractmethod
    def statistic(self, values: Tensor) -> Tensor:
        """(S, K), of a whole batch, -> (S, J)."""

    def join(self, x: Tensor, found: Tensor) -> Tensor:
        """Samples and what was found of each, (N, J), as channels that are the same everywhere."""
        channels = found.view(*found.shape, *(1,) * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
        return torch.cat([x, channels], 1)


class MinibatchDeviation(MinibatchLayer):
    """One channel: the standard deviation within a sample's small group, averaged (Karras et al. 2018).

    A group of 4 has every fourth part of the batch, as in the author's code: of 64 samples 0, 16, 32 and 48. Where
    4 does not divide the batch, groups are smaller.
    """

    def __init__(self, most: int = 4) -> None:
        super().__init__()
        self.most = most

    def statistic(self, values: Tensor) -> Tensor:
        samples = len(values)
        length = max(length for length in range(1, self.most + 1) if samples % length == 0)
        groups = values.view(length, samples // length, values.shape[1])
        deviation = (groups.var(0, correction=0) + 1e-8).sqrt().mean(1)
        return deviation.repeat(length)[:, None]


class MinibatchDiscrimination(MinibatchLayer):
    """For each of some kernels, how close a sample is to all others of the batch (Salimans et al. 2016).

    ``o_b = sum_j exp(-|M_i,b - M_j,b|) + bias`` over the others, where M is linear in the features. Source:
    openai/improved-gan, without its weight normalisation and its start from data.
    """

    def __init__(self, features: int, kernels: int = 50, dimensions: int = 5) -> None:
        super().__init__()
        self.kernels, self.dimensions = kernels, dimensions
        self.weight = nn.Parameter(0.05 * torch.randn(features, kernels * dimensions))
        self.bias = nn.Parameter(torch.full((kernels,), -1.0))

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T)

    def statistic(self, values: Tensor) -> Tensor:
        placed = values.view(-1, self.kernels, self.dimensions)
        apart = (placed[:, None] - placed[None]).abs().sum(3)
        return torch.exp(-apart).sum(1) - 1 + self.bias  # A sample's closeness to itself is 1.
