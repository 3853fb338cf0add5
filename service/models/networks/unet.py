"""U-Net and patch critic (Isola et al. 2017), as in SelfGAN's Pix2Pix notebook, from PyTorch-GAN's pix2pix."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from service.models.blocks import Upscale, initialise_dcgan
from service.models.networks import ImageShape, TranslationNetwork
from service.models.norms import Norm, norm_of, wants_bias
from service.models.patches import PatchForm, least_side, patch_critic

_FEWEST_HALVINGS = 4


class UNet(TranslationNetwork):
    """As many halvings as both sides allow, and back, with every stage joined to its mirror.

    Eight lead from 256x256 to a single pixel, and six from 192x256 to 3x4.
    """

    channels: int = Field(64, ge=1)
    critic_channels: int = Field(64, ge=1)
    critic_form: PatchForm = "self"
    norm: Norm = "instance"
    dropout: float = Field(0.5, ge=0, lt=1)

    def check(self, image: ImageShape) -> None:
        factor = 1 << _FEWEST_HALVINGS
        least = max(factor, least_side(self.critic_form))
        if image.height % factor or image.width % factor or min(image.height, image.width) < least:
            raise ValueError(
                f"network unet needs sides that {factor} divides, of {least} at least, not {image.size}: "
                "set data.transform.size"
            )

    def translator(self, source: ImageShape, image: ImageShape) -> nn.Module:
        stages = _halvings(image)
        widths = [self.channels * min(2**stage, 8) for stage in range(stages)]
        down = nn.ModuleList()
        fan_in = source.channels
        for stage, width in enumerate(widths):
            norm: Norm = self.norm if 0 < stage < stages - 1 else "none"
            down.append(self._down(fan_in, width, norm, dropout=stage >= 3))
            fan_in = width
        up = nn.ModuleList()
        for stage, width in reversed(list(enumerate(widths[:-1]))):
            up.append(self._up(fan_in, width, dropout=stage >= 3))
            fan_in = 2 * width
        return _UNet(down, up, fan_in, image.channels).apply(initialise_dcgan)

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        return patch_critic(image.channels, self.critic_channels, self.critic_form, self.norm, heads)

    def _down(self, fan_in: int, fan_out: int, norm: Norm, dropout: bool) -> nn.Module:
        convolution = nn.Conv2d(fan_in, fan_out, 4, 2, 1, bias=wants_bias(self.norm))
        layers = [convolution, *norm_of(norm, fan_out), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, *([nn.Dropout(self.dropout)] if dropout and self.dropout else []))

    def _up(self, fan_in: int, fan_out: int, dropout: bool) -> nn.Module:
        convolution = nn.ConvTranspose2d(fan_in, fan_out, 4, 2, 1, bias=wants_bias(self.norm))
        layers = [convolution, *norm_of(self.norm, fan_out)]
        return nn.Sequential(*layers, nn.ReLU(), *([nn.Dropout(self.dropout)] if dropout and self.dropout else []))


def _halvings(image: ImageShape) -> int:
    """How often 2 divides both sides."""
    common = math.gcd(image.height, image.width)
    return (common & -common).bit_length() - 1


class _UNet(nn.Module):
    def __init__(self, down: nn.ModuleList, up: nn.ModuleList, features: int, channels: int) -> None:
        super().__init__()
        self.down, self.up = down, up
        self.last = nn.Sequential(
            Upscale(), nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(features, channels, 4, padding=1),
            nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(N, source channels, H, W) -> (N, C, H, W)."""
        kept: list[Tensor] = []
        for stage in self.down:
            x = stage(x)
            kept.append(x)
        kept.pop()
        for stage in self.up:
            x = torch.cat([stage(x), kept.pop()], 1)
        made: Tensor = self.last(x)
        return made
