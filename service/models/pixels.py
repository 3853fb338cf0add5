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


def pixels_at(images: Tensor, places: Tensor) -> Tensor:
    """(N, C, K): of (N, C, H, W) images, for each the K pixels at its places, (N, K), counted row by row.

    In a gradient, shares of a pixel that is picked several times add up in one order: a CPU keeps to one when it
    gathers, and a GPU when it indexes.
    """
    flat = images.flatten(2)
    if images.device.type == "cpu":
        gathered: Tensor = flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1))
        return gathered
    samples = torch.arange(len(flat), device=flat.device)
    picked: Tensor = flat[samples[:, None], :, places]
    return picked.permute(0, 2, 1)


def with_a_hole(images: Tensor, share: float, drawn: Tensor) -> Tensor:
    """Images with a rectangle of 0 in each, whose sides are that share of theirs (Zhao et al. 2020).

    Its centre, which `drawn`, (N, 2) in [0, 1), says, may lie anywhere, so that a part of it may lie outside.
    """
    inside = []
    for size, of_images in zip(images.shape[2:], drawn.T, strict=True):
        side = int(size * share + 0.5)
        first = (of_images * (size + 1 - side % 2)).long()[:, None] - side // 2
        places = torch.arange(size, device=images.device)
        inside.append((places >= first) & (places < first + side))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(hole, 0, images)
