"""Modules that several networks are built from."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.models.layer_kinds import MakesWeight


# Doubling by nearest neighbour and then a 3x3 kernel (w0, w1, w2) reads every input pixel twice, so output
# rows 2i and 2i+1 are (w0, w1 + w2) and (w0 + w1, w2) of input rows (i-1, i) and (i, i+1). As a transposed
# convolution of stride 2 that is one 4-tap kernel: w2, w1 + w2, w0 + w1, w0.
def _four_taps(kernel: Tensor, dim: int) -> Tensor:
    first, second, third = kernel.unbind(dim)
    return torch.stack([third, second + third, first + second, first], dim)


class UpsampleConv(nn.Conv2d, MakesWeight):
    """``Upsample(scale_factor=2, mode="nearest")`` and ``Conv2d(kernel_size=3, padding=1)`` as one.

    It computes the same function of the same parameters as the 4x4 transposed convolution of stride 2, with
    4 multiplications an output value instead of 9, and no enlarged image in between.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, 2H, 2W)."""
        kernel = _four_taps(_four_taps(self.weight, 2), 3).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


class Upscale(nn.Module):
    """Each pixel twice, to the right and below: StyleGAN's Upscale2D, which SelfGAN's TPU notebooks upsample with.

    A TPU had no resize operation: forward and gradient, the sum over the 2x2 block, are views, copies and sums.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 2H, 2W)."""
        count, channels, height, width = x.shape
        doubled = x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)
        return doubled.reshape(count, channels, 2 * height, 2 * width)


class PixelShuffle(nn.Module):
    """``nn.PixelShuffle(2)``, whose gradient torch cannot take where a replica has no rows."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4C, H, W) -> (N, C, 2H, 2W)."""
        count, channels, height, width = x.shape
        parts = x.view(count, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
        return parts.reshape(count, channels // 4, 2 * height, 2 * width)


#: Upsample and convolve, against checkerboards; a transposed convolution; or a convolution whose channels are
#: laid out as pixels (Shi et al. 2016, arXiv:1609.05158).
Upsampling = Literal["nearest", "transposed", "pixel_shuffle"]


def doubling(form: Upsampling, in_channels: int, out_channels: int) -> nn.Module:
    """A module (N, in, H, W) -> (N, out, 2H, 2W)."""
    if form == "transposed":
        return nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1)
    if form == "pixel_shuffle":
        return nn.Sequential(nn.Conv2d(in_channels, 4 * out_channels, 3, padding=1), PixelShuffle())
    return UpsampleConv(in_channels, out_channels)


class GatedConv(nn.Conv2d):
    """A convolution whose second half of channels says how much of the first to let through (Yu et al. 2019).

    ``elu(a) * sigmoid(b)``, as in JiahuiYu/generative_inpainting; no norm or activation follows it.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(in_channels, 2 * out_channels, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        values, gates = super().forward(x).chunk(2, 1)
        return F.elu(values) * gates.sigmoid()


class EqualisedConv(nn.Conv2d, MakesWeight):
    """Weights drawn from N(0, 1), and scaled by He's constant when used, so that all learn equally fast (PGGAN).

    `gain` is sqrt(2) before a rectifier, as in tkarras/progressive_growing_of_gans.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int = 0, gain: float = 2**0.5):
        super().__init__(in_channels, out_channels, kernel_size, padding=padding)
        self.scale = gain / (in_channels * kernel_size**2) ** 0.5
        _initialise_equalised(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class EqualisedLinear(nn.Linear, MakesWeight):
    """As `EqualisedConv`, of vectors."""

    def __init__(self, in_features: int, out_features: int, gain: float = 2**0.5) -> None:
        super().__init__(in_features, out_features)
        self.scale = gain / in_features**0.5
        _initialise_equalised(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


def _initialise_equalised(module: nn.Conv2d | nn.Linear) -> None:
    nn.init.normal_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class Reshape(nn.Module):
    """(N, ...) -> (N, *shape)."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), *self.shape)


class GaussianNoise(nn.Module):
    """Adds N(0, deviation^2) in training, less and less of it; `service.replicas.global_layers` knows the step."""

    def __init__(self, deviation: float, steps: int) -> None:
        super().__init__()
        self.deviation, self.steps = deviation, steps

    def forward(self, x: Tensor) -> Tensor:
        return x + self.deviation * torch.randn_like(x) if self.training else x


def initialise_dcgan(module: nn.Module) -> None:
    """DCGAN's start, for `Module.apply`: N(0, 0.02) for convolutions, N(1, 0.02) and 0 for batch norms.

    Source: PyTorch-GAN's ``weights_init_normal``, which SelfGAN's notebooks use.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def initialise_keras(module: nn.Module) -> None:
    """Keras' start, for `Module.apply`: Glorot's uniform weights and zero biases."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
