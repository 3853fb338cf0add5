"""Networks that grow while they train: how far they have grown, and what real images look like meanwhile.

A stage is a number: at 2.0 the networks make images of the third size; from 2.0 to 3.0 the fourth fades in.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.models.blocks import Upscale


class GrowingModule(nn.Module):
    """A network of sizes 0 to `last`. A new one is full-grown; its stage is saved and loaded with its weights.

    Attributes:
        size: the largest that takes part.
        fade: how much of that size is there, in (0, 1].
    """

    stage: Tensor

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last
        self.register_buffer("stage", torch.tensor(float(last)))
        self.size, self.fade = last, 1.0

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self.grow(float(self.stage))

    def grow(self, stage: float) -> None:
        """Be as far as that. The host knows it, and no device is asked."""
        self.stage.fill_(stage)
        self.size, self.fade = size_and_fade(stage)


def grow(networks: nn.Module, stage: float) -> None:
    """Let every network among `networks` be as far as that."""
    for module in networks.modules():
        if isinstance(module, GrowingModule):
            module.grow(stage)


def size_and_fade(stage: float) -> tuple[int, float]:
    """The largest size that takes part at a stage, and how much of it is there, in (0, 1]."""
    size = math.ceil(stage)
    return size, 1.0 - (size - stage)


def begins(stage: float, before: float) -> bool:
    """Whether a size begins to fade in, or has just done so: the author resets the optimizers at both."""
    return (math.floor(stage), math.ceil(stage)) != (math.floor(before), math.ceil(before))


def faded(images: Tensor, stage: float, last: int) -> Tensor:
    """Real images (N, C, H, W) at a stage: of its size, faded as the networks are, and enlarged again."""
    size, fade = size_and_fade(stage)
    small = average(images, last - size)
    if fade < 1:
        small = torch.lerp(Upscale()(F.avg_pool2d(small, 2)), small, fade)
    for _ in range(last - size):
        small = Upscale()(small)
    return small


def average(images: Tensor, times: int) -> Tensor:
    """Images halved so many times, by the mean of 2x2 pixels."""
    return F.avg_pool2d(images, 2**times) if times else images
