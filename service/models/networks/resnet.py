"""Residual generator (Johnson et al. 2016) and patch critic, as in CycleGAN (Zhu et al. 2017, arXiv:1703.10593)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from service.models.blocks import GatedConv, Upsampling, doubling, initialise_dcgan
from service.models.networks import ImageShape, TranslationNetwork
from service.models.norms import Norm, norm_of, wants_bias
from service.models.patches import PatchForm, least_side, patch_critic


class ResNet(TranslationNetwork):
    """Two halvings, residual blocks (9 for images of 256, 6 for 128 and below), two doublings.

    Convolutions before a norm have no bias, which it would take away.
    """

    channels: int = Field(64, ge=1)
    blocks: int = Field(9, ge=1)
    critic_channels: int = Field(64, ge=1)
    critic_form: PatchForm = "self"
    norm: Norm = "instance"
    #: Gated convolutions (for holes to be filled) stand for a convolution, its norm and its activation.
    convolution: Literal["plain", "gated"] = "plain"
    upsampling: Upsampling = "nearest"

    def check(self, image: ImageShape) -> None:
        least = max(16, least_side(self.critic_form))
        if image.height % 4 or image.width % 4 or min(image.height, image.width) < least:
            raise ValueError(
                f"network resnet needs sides that 4 divides, of {least} at least, not {image.size}: "
                "set data.transform.size"
            )

    def translator(self, source: ImageShape, image: ImageShape) -> nn.Module:
        width = self.channels
        # What is the same all over the image, as channels that tell a domain are, a norm right here would take away.
        first: Norm = self.norm if source.channels == image.channels else "none"
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), *self._stage(first, source.channels, width, 7)]
        for _ in range(2):
            layers += self._stage(self.norm, width, 2 * width, 3, 2, 1)
            width *= 2
        for _ in range(self.blocks):
            last = nn.Conv2d(width, width, 3, bias=wants_bias(self.norm))
            stage = self._stage(self.norm, width, width, 3)
            layers.append(
                Residual(nn.ReflectionPad2d(1), *stage, nn.ReflectionPad2d(1), last, *norm_of(self.norm, width))
            )
        for _ in range(2):
            layers.append(doubling(self.upsampling, width, width // 2))
            layers += [*norm_of(self.norm, width // 2), nn.ReLU(inplace=True)]
            width //= 2
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, image.channels, 7), nn.Tanh()]
        return nn.Sequential(*layers).apply(initialise_dcgan)

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        return patch_critic(image.channels, self.critic_channels, self.critic_form, self.norm, heads)

    def _stage(
        self, norm: Norm, fan_in: int, fan_out: int, kernel: int, stride: int = 1, padding: int = 0
    ) -> list[nn.Module]:
        if self.convolution == "gated":
            return [GatedConv(fan_in, fan_out, kernel, stride, padding)]
        convolution = nn.Conv2d(fan_in, fan_out, kernel, stride, padding, bias=wants_bias(norm))
        return [convolution, *norm_of(norm, fan_out), nn.ReLU(inplace=True)]


class Residual(nn.Module):
    """What some modules make of an image is added to the image."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same."""
        added: Tensor = x + self.block(x)
        return added
