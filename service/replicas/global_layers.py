"""Layers that follow the global batch: statistics over all replicas, dropout and noise keyed by row.

Networks are plain torch modules. `follow_global_batch` exchanges the layers that look at the batch, or draw
noise, in the way of `nn.SyncBatchNorm.convert_sync_batchnorm`; parameters, buffers and their names stay, so
weights load into the plain network again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from service.models.blocks import GaussianNoise
from service.models.critic_augmentation import CriticAugmentation
from service.models.minibatch import MinibatchLayer
from service.models.noisy import NoisyHeads
from service.models.norms import SwitchableNorm
from service.replicas.global_batch import GlobalBatch

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_ELEMENT_DROPOUTS = (nn.Dropout,)
_CHANNEL_DROPOUTS = (nn.Dropout2d,)
_DROPOUTS = _ELEMENT_DROPOUTS + _CHANNEL_DROPOUTS


def follow_global_batch(
    module: nn.Module, batch: GlobalBatch, name: str, followers: dict[int, nn.Module] | None = None
) -> nn.Module:
    """`module` with every batch norm and dropout in it made to follow `batch`.

    Args:
        name: keys its draws.
        followers: what has been made of modules so far, by `id`: one that is used twice stays one.

    Raises:
        TypeError: a layer looks at the batch, or draws noise, in a way that has no counterpart here.
    """
    followers = {} if followers is None else followers
    if id(module) not in followers:
        followers[id(module)] = _follower(module, batch, name)
        for child_name, child in list(module._modules.items()):  # named_children() leaves out what it has given before.
            if child is not None and followers[id(module)] is module:
                setattr(module, child_name, follow_global_batch(child, batch, f"{name}.{child_name}", followers))
    return followers[id(module)]


def _follower(module: nn.Module, batch: GlobalBatch, name: str) -> nn.Module:
    """What takes a layer's place; the layer itself if it looks at nothing but its own row."""
    if isinstance(module, _BATCH_NORMS) and type(module) in _BATCH_NORMS:  # A subclass may have a forward of its own.
        return GlobalBatchNorm(module, batch)
    if isinstance(module, _DROPOUTS) and type(module) in _DROPOUTS:
        return KeyedDropout(module, batch, name)
    if isinstance(module, MinibatchLayer):
        return GlobalMinibatch(module, batch)
    if isinstance(module, SwitchableNorm):
        module.groups = batch
        return module
    if isinstance(module, NoisyHeads):
        module.batch = batch
        return module
    if isinstance(module, GaussianNoise):
        return KeyedNoise(module, batch, name)
    if isinstance(module, CriticAugmentation):
        return KeyedAugmentation(module, batch, name)
    tracks = isinstance(module, _NormBase) and module.track_running_stats
    draws = isinstance(module, nn.RReLU) or (isinstance(module, nn.MultiheadAttention) and module.dropout > 0)
    if isinstance(module, _BatchNorm | _DropoutNd | nn.SyncBatchNorm) or tracks or draws:
        raise TypeError(
            f"{name}: {type(module).__name__} sees only this replica's rows; give it a counterpart in global_layers.py"
        )
    return module


class GlobalBatchNorm(nn.Module):
    """Batch norm whose statistics are those of each group of the global batch, with exact gradients.

    torch's SyncBatchNorm runs on CUDA only and cannot be differentiated twice.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, plain: nn.BatchNorm1d | nn.BatchNorm2d, batch: GlobalBatch) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        self.eps = plain.eps
        if plain.momentum is None or not plain.affine or not plain.track_running_stats:
            raise TypeError("batch norm needs a momentum, affine=True and track_running_stats=True here")
        self.momentum = plain.momentum
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(buffer, getattr(plain, buffer))
        self.batch = batch

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) or (N, C, H, W), normalised per channel."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return self._here(x) if self.batch.in_one_place else self._over_replicas(x)

    def _here(self, x: Tensor) -> Tensor:
        """Every group lies here, in one piece: torch's own kernel, three times as fast as the formula."""
        self.num_batches_tracked += self.batch.groups
        parts = [
            F.batch_norm(
                part, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
            )
            for part in x.chunk(self.batch.groups)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _over_replicas(self, x: Tensor) -> Tensor:
        area = x[0, 0].numel() if len(x) else int(torch.tensor(x.shape[2:]).prod())
        spatial = list(range(2, x.dim()))
        # Centring on a value all replicas share keeps E[d^2] - E[d]^2 from cancelling in float32.
        offset = self.batch.as_at_first(self.running_mean)
        centred = x - _channels(offset[None], x)
        sums = torch.cat([_sum(centred, spatial), _sum(centred.square(), spatial)], 1)
        first, second = self.batch.group_means(sums, area).chunk(2, 1)
        variance = (second - first.square()).clamp_min(0)
        if self.batch.first_told:
            self._track(first.detach() + offset, variance.detach(), self.batch.group_size * area)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - first * scale
        rows = self.batch.per_row(torch.cat([scale, shift], 1))
        row_scale, row_shift = rows.chunk(2, 1)
        return centred * _channels(row_scale, x) + _channels(row_shift, x)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        unbiased = variance * (count / max(count - 1, 1))
        self.num_batches_tracked += self.batch.groups
        with torch.no_grad():
            for group in range(len(mean)):
                self.running_mean.lerp_(mean[group], self.momentum)
                self.running_var.lerp_(unbiased[group], self.momentum)


class GlobalMinibatch(nn.Module):
    """A minibatch layer whose statistic is of each group of the global batch."""

    def __init__(self, plain: MinibatchLayer, batch: GlobalBatch) -> None:
        super().__init__()
        self.plain, self.batch = plain, batch

    def forward(self, x: Tensor) -> Tensor:
        return self.plain.join(x, self.batch.over_groups(self.plain.project(x), self.plain.statistic))


class KeyedDropout(nn.Module):
    """Dropout of elements, or of whole channels, whose mask is keyed by (seed, step, layer, row)."""

    def __init__(self, plain: nn.Dropout | nn.Dropout2d, batch: GlobalBatch, name: str) -> None:
        super().__init__()
        self.p = plain.p
        # Rounded as a division in float32 rounds it.
        self._scale = (torch.ones((), dtype=torch.float32) / (1.0 - self.p)).item()
        self.whole_channels = isinstance(plain, _CHANNEL_DROPOUTS)
        self.name = name
        self.batch = batch

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        shape = x.shape[1:2] if self.whole_channels else x.shape[1:]
        drawn = self.batch.uniform(self.batch.layer_key(self.name), shape.numel())
        kept = drawn >= self.p
        # In float32 for bfloat16: rounded, the factor would leave more or less than there was.
        mask = kept.to(x.dtype) / (1.0 - self.p) if x.dtype == torch.float64 else kept * self._scale
        mask = mask.view(len(x), *shape)
        return (x * (_channels(mask, x) if self.whole_channels else mask)).to(x.dtype)


class KeyedNoise(nn.Module):
    """Normal noise keyed by (seed, step, layer, row), whose deviation falls to 0 in a straight line."""

    def __init__(self, plain: GaussianNoise, batch: GlobalBatch, name: str) -> None:
        super().__init__()
        self.deviation, self.steps, self.name, self.batch = plain.deviation, plain.steps, name, batch

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        left = (1 - self.batch.step / self.steps).clamp_min(0).to(x.dtype)
        drawn = self.batch.normal(self.batch.layer_key(self.name), x.shape[1:].numel())
        return x + self.deviation * left * drawn.view_as(x)


class KeyedAugmentation(nn.Module):
    """An augmentation of what critics see, whose draws are keyed by (seed, step, layer, row)."""

    def __init__(self, plain: CriticAugmentation, batch: GlobalBatch, name: str) -> None:
        super().__init__()
        self.plain, self.name, self.batch = plain, name, batch

    def forward(self, *images: Tensor) -> list[Tensor]:
        if not self.training:
            return list(images)
        key, normal = self.batch.layer_key(self.name), None
        uniform = self.batch.uniform(key, self.plain.uniform_draws)
        if self.plain.normal_draws:
            normal = self.batch.normal(f"{key}, normal", self.plain.normal_draws)
        return [self.plain.changed(of_rows, uniform, normal) for of_rows in images]


def _channels(values: Tensor, like: Tensor) -> Tensor:
    """(N or 1, C) -> a shape that broadcasts over `like`."""
    return values.reshape(*values.shape, *(1,) * (like.dim() - 2))


def _sum(x: Tensor, spatial: list[int]) -> Tensor:
    return x.sum(spatial) if spatial else x
