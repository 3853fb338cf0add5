"""DCGAN as in SelfGAN's Keras (TPU) notebook, from Keras-GAN's dcgan.py: 28x28 MNIST, 64x64 bedrooms."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from service.models.blocks import Reshape, UpsampleConv, initialise_keras
from service.models.networks import ImageShape, LatentNetwork


class KerasDCGAN(LatentNetwork):
    """Two doublings from a quarter of the size up; three halvings and a fourth stage down."""

    generator_channels: int = Field(128, ge=1)
    critic_channels: int = Field(32, ge=1)
    dropout: float = 0.25
    #: Keras' momentum of 0.8 is the share that the running statistics keep.
    batch_norm_momentum: float = Field(0.8, ge=0, lt=1)

    def check(self, image: ImageShape) -> None:
        if image.height % 4 or image.width % 4:
            raise ValueError(
                f"network dcgan_keras needs sides that 4 divides, not {image.size}: set data.transform.size"
            )

    def generator(self, image: ImageShape, inputs: int) -> nn.Module:
        wide, narrow = self.generator_channels, self.generator_channels // 2
        height, width = image.height // 4, image.width // 4
        return nn.Sequential(
            nn.Linear(inputs, wide * height * width),
            nn.ReLU(inplace=True),
            Reshape(wide, height, width),
            UpsampleConv(wide, wide),
            self._batch_norm(wide),
            nn.ReLU(inplace=True),
            UpsampleConv(wide, narrow),
            self._batch_norm(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, image.channels, 3, padding=1),
            nn.Tanh(),
        ).apply(initialise_keras)

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        layers: list[nn.Module] = []
        height, width, fan_in = image.height, image.width, image.channels
        for index, (factor, stride) in enumerate(((1, 2), (2, 2), (4, 2), (8, 1))):
            fan_out = self.critic_channels * factor
            layers.append(nn.ZeroPad2d((*_same(width, stride), *_same(height, stride))))
            layers.append(nn.Conv2d(fan_in, fan_out, 3, stride=stride))
            height, width, fan_in = -(-height // stride), -(-width // stride), fan_out
            if index == 1:
                layers.append(nn.ZeroPad2d((0, 1, 0, 1)))
                height, width = height + 1, width + 1
            if index > 0:
                layers.append(self._batch_norm(fan_out))
            layers += [nn.LeakyReLU(0.2, inplace=True), nn.Dropout(self.dropout)]
        layers += [nn.Flatten(), nn.Linear(fan_in * height * width, 1 + heads)]
        return nn.Sequential(*layers).apply(initialise_keras)

    def _batch_norm(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=1e-3, momentum=1 - self.batch_norm_momentum)


def _same(size: int, stride: int) -> tuple[int, int]:
    """What Keras' ``padding="same"`` adds before and after, for a kernel of 3: the odd one goes behind."""
    total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
    return total // 2, total - total // 2
