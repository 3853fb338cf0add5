"""Residual generator (Johnson et al. 2016) and patch critic, as in CycleGAN (Zhu et al. 2017, arXiv:1703.10593)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from service.blocks import UpsampleConv, initialise_dcgan
from service.networks import ImageShape, TranslationNetwork
from service.patches import Norm, PatchForm, least_side, norm_of, patch_critic


class ResNet(TranslationNetwork):
    """Two halvings, residual blocks (9 for images of 256, 6 for 128 and below), two doublings.

    Convolutions before a norm have no bias, which it would take away.
    """

    channels: int = Field(64, ge=1)
    blocks: int = Field(9, ge=1)
    critic_channels: int = Field(64, ge=1)
    critic_form: PatchForm = "self"
    norm: Norm = "instance"

    def check(self, image: ImageShape) -> None:
        least = max(16, least_side(self.critic_form))
        if image.height % 4 or image.width % 4 or min(image.height, image.width) < least:
            raise ValueError(
                f"network resnet needs sides that 4 divides, of {least} at least, not {image.height}x{image.width}: "
                "set data.transform.size"
            )

    def translator(self, source: ImageShape, image: ImageShape) -> nn.Module:
        width = self.channels
        # What is the same all over the image, as channels that tell a domain are, a norm right here would take away.
        first: Norm = self.norm if source.channels == image.channels else "none"
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(source.channels, width, 7, bias=first == "none")]
        layers += [*norm_of(first, width), nn.ReLU(inplace=True)]
        for _ in range(2):
            layers.append(nn.Conv2d(width, 2 * width, 3, 2, 1, bias=self.norm == "none"))
            layers += [*norm_of(self.norm, 2 * width), nn.ReLU(inplace=True)]
            width *= 2
        layers += [_Residual(width, self.norm) for _ in range(self.blocks)]
        for _ in range(2):
            layers += [UpsampleConv(width, width // 2), *norm_of(self.norm, width // 2), nn.ReLU(inplace=True)]
            width //= 2
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, image.channels, 7), nn.Tanh()]
        return nn.Sequential(*layers).apply(initialise_dcgan)

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        return patch_critic(image.channels, self.critic_channels, self.critic_form, self.norm, heads)


class _Residual(nn.Module):
    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"  # A norm takes it away.
        self.block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), *norm_of(norm, width), nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), *norm_of(norm, width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.block(x)
        return added
