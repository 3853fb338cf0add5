"""The info-cycle pair of rezer0dai/info-cycle-sim-gan, from StarGAN (Choi et al. 2018, arXiv:1711.09020)."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from service.models.blocks import doubling
from service.models.networks import ImageShape, TranslationNetwork
from service.models.networks.resnet import Residual
from service.models.patches import PatchCritic


class StarGAN(TranslationNetwork):
    """A residual generator with five blocks, and a critic of strided convolutions that judges patches.

    Instance norms learn scale and shift. The author's also track running statistics, and use them nowhere: his
    networks never leave training mode.
    """

    channels: int = Field(64, ge=1)
    blocks: int = Field(5, ge=1)
    #: Of the critic's first stage, which has twice as many with each further one.
    critic_channels: int = Field(64, ge=1)
    critic_stages: int = Field(3, ge=1)
    #: The author's norm right after the first convolution takes away what is the same all over an image, as
    #: channels that tell a domain are, but for what padding leaves of them at the borders.
    first_norm: bool = True

    def check(self, image: ImageShape) -> None:
        factor = max(4, 2**self.critic_stages)
        if image.height % factor or image.width % factor or min(image.height, image.width) < 2 * factor:
            raise ValueError(
                f"network stargan needs sides that {factor} divides, of {2 * factor} at least, not "
                f"{image.size}: set data.transform.size"
            )

    def translator(self, source: ImageShape, image: ImageShape) -> nn.Module:
        width = self.channels
        layers: list[nn.Module] = [nn.Conv2d(source.channels, width, 7, padding=3, bias=not self.first_norm)]
        layers += [*([_norm(width)] if self.first_norm else []), nn.ReLU(True)]
        for _ in range(2):
            layers += [nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), _norm(2 * width), nn.ReLU(True)]
            width *= 2
        for _ in range(self.blocks):
            layers.append(
                Residual(
                    nn.Conv2d(width, width, 3, padding=1, bias=False), _norm(width), nn.ReLU(True),
                    nn.Conv2d(width, width, 3, padding=1, bias=False), _norm(width),
                )
            )  # fmt: skip
        for _ in range(2):
            layers += [doubling("transposed", width, width // 2), _norm(width // 2), nn.ReLU(True)]
            width //= 2
        return nn.Sequential(*layers, nn.Conv2d(width, image.channels, 7, padding=3, bias=False), nn.Tanh())

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        layers: list[nn.Module] = []
        fan_in, width = image.channels, self.critic_channels
        for stage in range(self.critic_stages):
            layers.append(nn.Conv2d(fan_in, width, 4, 2, 1))
            layers += [*([_norm(width)] if stage else []), nn.LeakyReLU(0.01)]
            fan_in, width = width, 2 * width
        last = nn.Conv2d(fan_in, 1, 3, padding=1, bias=False)
        return PatchCritic(nn.Sequential(*layers), last, fan_in, heads)


def _norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True)
