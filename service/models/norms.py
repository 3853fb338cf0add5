"""Normalisations that networks choose between by name."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

Norm = Literal["batch", "instance", "layer", "pixel", "switchable", "none"]


def norm_of(norm: Norm, channels: int) -> list[nn.Module]:
    """A normalisation of so many channels, if there is to be one."""
    match norm:
        case "batch":
            return [nn.BatchNorm2d(channels)]
        case "instance":
            return [nn.InstanceNorm2d(channels)]
        case "layer":
            return [nn.GroupNorm(1, channels)]
        case "pixel":
            return [PixelNorm()]
        case "switchable":
            return [SwitchableNorm(channels)]
        case "none":
            return []


def wants_bias(norm: Norm) -> bool:
    """Whether a convolution before it needs a bias: others take away what is the same all over a channel."""
    return norm not in ("batch", "instance")


class PixelNorm(nn.Module):
    """``a / sqrt(mean_c a^2 + 1e-8)`` at every pixel, or of every vector (Karras et al. 2018, arXiv:1710.10196)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same."""
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class ClassBatchNorm(nn.Module):
    """Batch norm whose scale and shift depend on an image's class (Dumoulin et al. 2016, arXiv:1610.07629).

    ``norm(x) (1 + scale[class]) + shift[class]``. What all classes share, batch norm has learnt itself: without classes
    it is alone.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.scale, self.shift = (nn.Linear(classes, channels, bias=False) if classes else None for _ in range(2))
        self.begin_alike()

    def begin_alike(self) -> None:
        """Let classes differ by next to nothing; zeros would have no spectral norm to be divided by."""
        for layer in (self.scale, self.shift):
            if layer is not None:
                nn.init.normal_(layer.weight, 0.0, 0.02)

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:
        """(N, C, H, W), and one-hot classes (N, K) -> (N, C, H, W)."""
        normed: Tensor = self.norm(x)
        if self.scale is None or self.shift is None:
            return normed
        scale, shift = (layer(classes)[:, :, None, None] for layer in (self.scale, self.shift))
        changed: Tensor = normed * (1 + scale) + shift
        return changed


class Groups(Protocol):
    """What a statistic over the batch is taken over."""

    @property
    def first_told(self) -> bool:
        """Whether the last means are news, and not told again for another part of the same rows."""

    def group_means(self, values: Tensor) -> Tensor:
        """(N, K) -> (groups, K), the means of each group's rows."""

    def per_row(self, statistics: Tensor) -> Tensor:
        """(groups, K) -> (N or 1, K), each row that of its group."""

    def to_rows(self, values: Tensor) -> Tensor:
        """(K,) -> (N or 1, K), the same for each row."""


class _OneGroup:
    """All rows at hand."""

    first_told = True

    def group_means(self, values: Tensor) -> Tensor:
        return values.mean(0, keepdim=True)

    def per_row(self, statistics: Tensor) -> Tensor:
        return statistics

    def to_rows(self, values: Tensor) -> Tensor:
        return values[None]


class SwitchableNorm(nn.Module):
    """Means and variances of instance, layer and batch norm, mixed by weights that are learnt (Luo et al. 2019).

    Source: switchablenorms/Switchable-Normalization, SwitchNorm2d, with running averages for the batch's part.

    Attributes:
        groups: what the batch's part is taken over; `service.replicas.global_layers` makes it the global batch.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.mean_weight, self.var_weight = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.zeros(channels))
        self.groups: Groups = _OneGroup()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        pixels = x.flatten(2)
        mean = pixels.mean(2)
        variance = pixels.var(2, correction=min(1, pixels.shape[2] - 1))
        second = variance + mean.square()
        layer_mean = mean.mean(1, keepdim=True)
        layer_var = second.mean(1, keepdim=True) - layer_mean.square()
        batch_mean, batch_var = self._batch(mean, second)
        learnt = torch.cat([self.weight, self.bias, self.mean_weight.softmax(0), self.var_weight.softmax(0)])
        of_rows = self.groups.to_rows(learnt) if self.training else learnt[None]
        weight, bias, of_mean, of_var = of_rows.split([x.shape[1], x.shape[1], 3, 3], 1)
        centre = of_mean[:, :1] * mean + of_mean[:, 1:2] * layer_mean + of_mean[:, 2:] * batch_mean
        spread = of_var[:, :1] * variance + of_var[:, 1:2] * layer_var + of_var[:, 2:] * batch_var
        scale = weight * torch.rsqrt(spread + self.eps)
        normed: Tensor = x * scale[:, :, None, None] + (bias - centre * scale)[:, :, None, None]
        return normed

    def _batch(self, mean: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.running_mean[None], self.running_var[None]
        means, seconds = self.groups.group_means(torch.cat([mean, second], 1)).chunk(2, 1)
        variances = seconds - means.square()
        if self.groups.first_told:
            self._track(means.detach(), variances.detach())
        row_means, row_variances = self.groups.per_row(torch.cat([means, variances], 1)).chunk(2, 1)
        return row_means, row_variances

    def _track(self, means: Tensor, variances: Tensor) -> None:
        for of_group, var_of_group in zip(means, variances, strict=True):
            self.running_mean.lerp_(of_group, self.momentum)
            self.running_var.lerp_(var_of_group, self.momentum)
