"""DCGAN as in SelfGAN's PyTorch notebook, from PyTorch-GAN's dcgan.py: 32x32 MNIST, 64x64 bedrooms."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from service.blocks import Logits, Reshape, UpsampleConv, initialise_dcgan
from service.networks import ImageShape, Network


class DCGAN(Network):
    """Two doublings from a quarter of the size up; four halvings down. The defaults are the notebook's."""

    #: Channels of the generator's first two stages; the third has half as many.
    generator_channels: int = 128
    #: Channels of the critic's first stage; each further one has twice as many.
    critic_channels: int = 16
    dropout: float = 0.25
    #: The notebook writes ``BatchNorm2d(n, 0.8)``: 0.8 is the epsilon there, whatever was meant.
    batch_norm_eps: float = 0.8

    def check(self, image: ImageShape) -> None:
        if image.height % 16 or image.width % 16:
            raise ValueError(f"network dcgan needs sides that 16 divides, not {image.height}x{image.width}")

    def generator(self, image: ImageShape) -> nn.Module:
        wide, narrow = self.generator_channels, self.generator_channels // 2
        height, width = image.height // 4, image.width // 4
        return nn.Sequential(
            nn.Linear(self.latent_dim, wide * height * width),
            Reshape(wide, height, width),
            nn.BatchNorm2d(wide),
            UpsampleConv(wide, wide),
            nn.BatchNorm2d(wide, self.batch_norm_eps),
            nn.LeakyReLU(0.2, inplace=True),
            UpsampleConv(wide, narrow),
            nn.BatchNorm2d(narrow, self.batch_norm_eps),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(narrow, image.channels, 3, padding=1),
            nn.Tanh(),
        ).apply(initialise_dcgan)

    def critic(self, image: ImageShape) -> nn.Module:
        widths = [self.critic_channels * factor for factor in (1, 2, 4, 8)]
        layers: list[nn.Module] = []
        for index, (fan_in, fan_out) in enumerate(pairwise((image.channels, *widths))):
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
            layers.append(nn.Dropout2d(self.dropout))
            if index > 0:
                layers.append(nn.BatchNorm2d(fan_out, self.batch_norm_eps))
        features = widths[-1] * (image.height // 16) * (image.width // 16)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 1), Logits()).apply(initialise_dcgan)
