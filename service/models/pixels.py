"""Between images as they are stored, uint8, and as networks see them, in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def to_model(images: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 images -> `dtype` in [-1, 1]."""
    pixels = images.to(dtype)
    # One pass over what was just written, where a product and a sum would be two.
    return torch.add(pixels.new_full((), -1.0), pixels, alpha=2 / 255, out=pixels)


def to_image(images: Tensor) -> Tensor:
    """What a generator makes -> uint8 images on the host: the inverse of `to_model`, rounded."""
    return images.detach().float().add(1).mul(255 / 2).round().clamp(0, 255).to(torch.uint8).cpu()
