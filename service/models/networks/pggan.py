"""Progressive growing (Karras et al. 2018, arXiv:1710.10196), as in tkarras/progressive_growing_of_gans.

Networks begin at 4x4; stage by stage a resolution is faded in. Images are always of the full size: those of a
smaller stage are enlarged, so nothing else has to know how far the networks have grown.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from service.models.blocks import EqualisedConv, EqualisedLinear, Reshape, Upscale
from service.models.growth import GrowingModule, average
from service.models.minibatch import MinibatchDeviation
from service.models.networks import ImageShape, LatentNetwork
from service.models.norms import PixelNorm

_START = 4


class PGGAN(LatentNetwork):
    """Every resolution is trained for some images, and the next faded in over some more.

    The first layer has a bias for each of its outputs, where the author's has one for each channel.
    """

    latent_dim: int = Field(512, ge=1)
    #: Channels are `channels` over a power of 2 for each stage, and never more than `most_channels`.
    channels: int = Field(8192, ge=1)
    most_channels: int = Field(512, ge=1)
    stable_images: int = Field(600_000, ge=1)
    fade_images: int = Field(600_000, ge=1)

    def check(self, image: ImageShape) -> None:
        side = image.height
        if image.width != side or side & (side - 1) or side < 2 * _START:
            raise ValueError(
                f"network pggan needs square images whose side is a power of 2 and at least {2 * _START}, not "
                f"{image.size}: set data.transform.size"
            )

    def last_stage(self, image: ImageShape) -> int:
        return int(math.log2(image.height // _START))

    def stage(self, image: ImageShape, seen: int) -> float:
        rounds, rest = divmod(seen, self.stable_images + self.fade_images)
        faded = max(rest - self.stable_images, 0) / self.fade_images
        return min(rounds + faded, float(self.last_stage(image)))

    def generator(self, image: ImageShape, inputs: int) -> nn.Module:
        return _Generator(self._widths(image), inputs, image.channels)

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        return _Critic(self._widths(image), min(self.channels, self.most_channels), image.channels, heads)

    def _widths(self, image: ImageShape) -> list[int]:
        """Channels at 4x4 and each further resolution."""
        stages = range(self.last_stage(image) + 1)
        return [max(1, min(self.channels // 2 ** (stage + 1), self.most_channels)) for stage in stages]


class _Generator(GrowingModule):
    def __init__(self, widths: list[int], inputs: int, channels: int) -> None:
        super().__init__(len(widths) - 1)
        first = EqualisedLinear(inputs, widths[0] * _START**2, gain=2**0.5 / 4)  # The author's, for the latents' norm.
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(
                    PixelNorm(), first, Reshape(widths[0], _START, _START), nn.LeakyReLU(0.2), PixelNorm(),
                    EqualisedConv(widths[0], widths[0], 3, 1), nn.LeakyReLU(0.2), PixelNorm(),
                )
            ]
        )  # fmt: skip
        for fan_in, fan_out in pairwise(widths):
            self.blocks.append(
                nn.Sequential(
                    Upscale(), EqualisedConv(fan_in, fan_out, 3, 1), nn.LeakyReLU(0.2), PixelNorm(),
                    EqualisedConv(fan_out, fan_out, 3, 1), nn.LeakyReLU(0.2), PixelNorm(),
                )
            )  # fmt: skip
        self.to_image = nn.ModuleList(EqualisedConv(width, channels, 1, gain=1.0) for width in widths)
        self.enlarge = Upscale()

    def forward(self, latents: Tensor) -> Tensor:
        """(N, inputs) -> (N, C, H, W); no tanh bounds them, as in the author's code."""
        x = self.blocks[0](latents)
        before = x
        for block in self.blocks[1 : self.size + 1]:
            before, x = x, block(x)
        image: Tensor = self.to_image[self.size](x)
        if self.fade < 1:
            image = torch.lerp(self.enlarge(self.to_image[self.size - 1](before)), image, self.fade)
        for _ in range(self.last - self.size):
            image = self.enlarge(image)
        return image


class _Critic(GrowingModule):
    def __init__(self, widths: list[int], features: int, channels: int, heads: int) -> None:
        super().__init__(len(widths) - 1)
        self.from_image = nn.ModuleList(
            nn.Sequential(EqualisedConv(channels, width, 1), nn.LeakyReLU(0.2)) for width in widths
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                EqualisedConv(fan_in, fan_in, 3, 1), nn.LeakyReLU(0.2),
                EqualisedConv(fan_in, fan_out, 3, 1), nn.LeakyReLU(0.2), nn.AvgPool2d(2),
            )
            for fan_out, fan_in in pairwise(widths)
        )  # fmt: skip
        self.end = nn.Sequential(
            MinibatchDeviation(), EqualisedConv(widths[0] + 1, widths[0], 3, 1), nn.LeakyReLU(0.2), nn.Flatten(),
            EqualisedLinear(widths[0] * _START**2, features), nn.LeakyReLU(0.2),
            EqualisedLinear(features, 1 + heads, gain=1.0),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 1 + heads)."""
        images = average(images, self.last - self.size)
        x = self.from_image[self.size](images)
        for size in range(self.size, 0, -1):
            x = self.blocks[size - 1](x)
            if size == self.size and self.fade < 1:
                x = torch.lerp(self.from_image[size - 1](F.avg_pool2d(images, 2)), x, self.fade)
        logits: Tensor = self.end(x)
        return logits
