"""A cheap measure of how far generated images are from real ones, to tell a run's best checkpoint by."""

from __future__ import annotations

import torch
from torch import Tensor

from service.replicas import randomness

_DIRECTIONS = 128


def sliced_wasserstein(generated: Tensor, real: Tensor) -> float:
    """The sliced Wasserstein-1 distance of two equally large sets of images, over random directions.

    Rabin et al. 2011; the directions are always the same. 0 for equal sets; in grey levels a pixel.

    Args:
        generated, real: (N, C, H, W) uint8.
    """
    pixels = generated[0].numel()
    numbers = torch.arange(_DIRECTIONS)
    directions = randomness.normal(randomness.key_of(0, "directions"), 0, numbers, pixels)
    directions = directions / directions.norm(dim=1, keepdim=True)
    projected = [(images.flatten(1).float() @ directions.T).sort(0).values for images in (generated, real)]
    return float((projected[0] - projected[1]).abs().mean())
