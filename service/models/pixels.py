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


def cut_out(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Of (N, C, H, W) images, for each the part (C, height, width) at its (N,) place."""
    samples = torch.arange(len(images), device=images.device)
    rows, columns = (
        place[:, None] + torch.arange(size, device=images.device) for place, size in ((top, height), (left, width))
    )
    part: Tensor = images[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return part.permute(0, 3, 1, 2)
