"""Critics that judge an image patch by patch."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from service.models.blocks import initialise_dcgan
from service.models.norms import Norm, norm_of, wants_bias

#: ``self`` is PyTorch-GAN's, in SelfGAN's notebooks; the others are junyanz/pytorch-CycleGAN-and-pix2pix's.
PatchForm = Literal["self", "patch70", "pixel"]


class PatchCritic(nn.Module):
    """Features of patches, and a logit for each; heads look at the mean patch."""

    def __init__(self, body: nn.Module, last: nn.Module, features: int, heads: int) -> None:
        super().__init__()
        self.body, self.last = body, last
        self.heads = nn.Linear(features, heads) if heads else None

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, patches + heads)."""
        features = self.body(images)
        logits: Tensor = self.last(features).flatten(1)
        if self.heads is None:
            return logits
        return torch.cat([logits, self.heads(features.mean((2, 3)))], 1)


def patch_critic(channels: int, width: int, form: PatchForm, norm: Norm, heads: int) -> nn.Module:
    """A new one for images of so many channels; its first stage has `width`."""
    if form == "pixel":
        layers = [*_stage(channels, width, 1, 1, "none"), *_stage(width, 2 * width, 1, 1, norm)]
        last: nn.Module = nn.Conv2d(2 * width, 1, 1)
        return PatchCritic(nn.Sequential(*layers), last, 2 * width, heads).apply(initialise_dcgan)
    strides = (2, 2, 2, 2) if form == "self" else (2, 2, 2, 1)
    widths = [channels, *(width * 2**stage for stage in range(4))]
    layers = []
    for stage, ((fan_in, fan_out), stride) in enumerate(zip(pairwise(widths), strides, strict=True)):
        layers += _stage(fan_in, fan_out, 4, stride, norm if stage else "none")
    if form == "self":
        last = nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(widths[-1], 1, 4, padding=1, bias=False))
    else:
        last = nn.Conv2d(widths[-1], 1, 4, padding=1)
    return PatchCritic(nn.Sequential(*layers), last, widths[-1], heads).apply(initialise_dcgan)


def least_side(form: PatchForm) -> int:
    """The smallest images that leave the critic a patch to judge."""
    return {"self": 32, "patch70": 32, "pixel": 1}[form]


def _stage(fan_in: int, fan_out: int, kernel: int, stride: int, norm: Norm) -> list[nn.Module]:
    padding = kernel // 2 - 1 if kernel > 1 else 0
    convolution = nn.Conv2d(fan_in, fan_out, kernel, stride, padding, bias=wants_bias(norm))
    return [convolution, *norm_of(norm, fan_out), nn.LeakyReLU(0.2, inplace=True)]
