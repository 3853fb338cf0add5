"""How much generated images differ among themselves: a sign of a generator that has collapsed."""

from __future__ import annotations

import torch
from torch import Tensor

from service.replicas.global_batch import GlobalBatch


def diversity(generated: Tensor, real: Tensor, batch: GlobalBatch) -> Tensor:
    """The spread of generated images, as a share of that of the real ones; 0-dimensional.

    The spread is the mean over pixels of the standard deviation over the global batch.

    Args:
        generated, real: (N, C, H, W), this replica's rows.
    """
    return _spread(generated, batch) / _spread(real, batch).clamp_min(1e-6)


def _spread(images: Tensor, batch: GlobalBatch) -> Tensor:
    pixels = images.flatten(1)
    means = batch.group_means(torch.cat([pixels, pixels.square()], 1))
    first, second = means.mean(0).chunk(2)
    return (second - first.square()).clamp_min(0).sqrt().mean()
