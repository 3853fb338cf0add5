"""R3GAN's networks (Huang et al. 2024, arXiv:2501.05441): residual blocks of grouped convolutions, without norms.

What keeps values in bounds is where training starts: every block adds nothing at first, and its first two convolutions
shrink with the number of blocks (Fixup, Zhang et al. 2019, arXiv:1901.09321).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from service.models.networks import SET_SIZE, ImageShape, LatentNetwork

_WIDTH = 64
#: A block is inside so many times as wide as outside.
_EXPANSION = 2
#: Of the filter between stages, in each direction.
_TAPS = (1, 3, 3, 1)
#: The gain that keeps the variance of LeakyReLU(0.2)'s inputs.
_GAIN = math.sqrt(2 / (1 + 0.2**2))


class R3GAN(LatentNetwork):
    """Stages from 4x4 on, each twice as large as the one before; the critic has them in reverse.

    Images that are no squares begin elsewhere (`ImageShape.starts`): 64x32 at 4x2, or at 8x4 with a stage less.
    The published widths are 768 in all stages for CIFAR-10, and 768 up to 32x32 and then half as many a stage for
    FFHQ.
    """

    latent_dim: int = Field(64, ge=1)
    #: Channels of each stage, the smallest first [default: 64 in all].
    widths: tuple[PositiveInt, ...] | None = Field(None, min_length=1)
    blocks: int = Field(2, ge=1, description="in each stage")
    group_channels: int = Field(16, ge=1, description="channels that a 3x3 convolution mixes with each other")

    def check(self, image: ImageShape) -> None:
        starts, widths = image.starts(), self._widths(image)
        if len(widths) - 1 not in starts:
            side = 2 << len(widths)
            better = f"give {' or '.join(str(doublings + 1) for doublings in starts)} network.widths"
            raise ValueError(
                f"network r3gan makes images of {side}x{side} with {len(widths)} widths, and not of {image.size}: "
                f"{better if starts else f'{SET_SIZE}, and network.widths to one for each stage'}"
            )
        for width in widths:
            if _EXPANSION * width % self.group_channels:
                raise ValueError(
                    f"network r3gan: network.group_channels={self.group_channels} must divide twice each of "
                    f"network.widths, and does not divide {_EXPANSION * width}"
                )

    def _widths(self, image: ImageShape) -> tuple[int, ...]:
        return self.widths or (_WIDTH,) * (max(image.starts(), default=0) + 1)

    def generator(self, image: ImageShape, inputs: int) -> nn.Module:
        widths = self._widths(image)
        first = widths[0]
        layers: list[nn.Module] = [
            _scaled(nn.Linear(inputs, first, bias=False)), nn.Unflatten(1, (first, 1, 1)),
            _learnt_start(first, image.starts()[len(widths) - 1]),
        ]  # fmt: skip
        for number, width in enumerate(widths):
            if number:
                layers += [*_changed(widths[number - 1], width), Resampled(up=True)]
            layers += self._stage(width, len(widths))
        layers.append(_scaled(nn.Conv2d(widths[-1], image.channels, 1, bias=False)))
        return nn.Sequential(*layers)

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        widths = self._widths(image)[::-1]
        layers: list[nn.Module] = [_scaled(nn.Conv2d(image.channels, widths[0], 1, bias=False))]
        for number, width in enumerate(widths):
            if number:
                layers += [Resampled(up=False), *_changed(widths[number - 1], width)]
            layers += self._stage(width, len(widths))
        last, smallest = widths[-1], image.starts()[len(widths) - 1]
        layers += [_scaled(nn.Conv2d(last, last, smallest, groups=last, bias=False)), nn.Flatten()]
        return nn.Sequential(*layers, _scaled(nn.Linear(last, 1 + heads, bias=False)))

    def _stage(self, width: int, stages: int) -> list[nn.Module]:
        return [Block(width, self.group_channels, self.blocks * stages) for _ in range(self.blocks)]


class Block(nn.Module):
    """``x + conv1x1(act(conv3x3(act(conv1x1(x)))))``, the middle one in groups; act is a bias and LeakyReLU 0.2."""

    def __init__(self, width: int, group_channels: int, count: int) -> None:
        super().__init__()
        inner = _EXPANSION * width
        gain = _GAIN * count**-0.25
        self.layers = nn.Sequential(
            _scaled(nn.Conv2d(width, inner, 1), gain), nn.LeakyReLU(0.2, True),
            _scaled(nn.Conv2d(inner, inner, 3, padding=1, groups=inner // group_channels), gain),
            nn.LeakyReLU(0.2, True), _scaled(nn.Conv2d(inner, width, 1, bias=False), 0),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        added: Tensor = x + self.layers(x)
        return added


class Resampled(nn.Module):
    """Images of twice, or half, the side, through the filter (1, 3, 3, 1) each way."""

    taps: Tensor

    def __init__(self, up: bool) -> None:
        super().__init__()
        self.up = up
        whole = 16 if up else 64
        taps = torch.tensor([[row * column / whole for column in _TAPS] for row in _TAPS])
        self.register_buffer("taps", taps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 2H, 2W), or (N, C, H / 2, W / 2)."""
        channels = x.shape[1]
        kernel = self.taps.to(x.dtype).expand(channels, 1, 4, 4)
        resample = F.conv_transpose2d if self.up else F.conv2d
        return resample(x, kernel, stride=2, padding=1, groups=channels)


def _learnt_start(channels: int, size: tuple[int, int]) -> nn.Module:
    """A learnt picture of that size for each channel, times what comes in: (N, C, 1, 1) -> (N, C, H, W)."""
    start = nn.ConvTranspose2d(channels, channels, size, groups=channels, bias=False)
    nn.init.normal_(start.weight)
    return start


def _changed(fan_in: int, fan_out: int) -> list[nn.Module]:
    return [] if fan_in == fan_out else [_scaled(nn.Conv2d(fan_in, fan_out, 1, bias=False))]


def _scaled(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> nn.Module:
    """Weights of N(0, gain^2 / fan in), and no biases at first."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
