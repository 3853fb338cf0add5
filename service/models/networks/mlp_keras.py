"""Fully connected generator and critic: SelfGAN's "GAN" in its Keras (TPU) notebook, from Keras-GAN's gan.py."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field, PositiveInt
from torch import nn

from service.models.blocks import Reshape, initialise_keras
from service.models.networks import ImageShape, LatentNetwork


class KerasMLP(LatentNetwork):
    """Dense, LeakyReLU, batch norm, in this order; the defaults are the notebook's."""

    generator_widths: tuple[PositiveInt, ...] = Field((256, 512, 1024), min_length=1)
    critic_widths: tuple[PositiveInt, ...] = Field((512, 256), min_length=1)
    #: Keras' momentum of 0.8 is the share that the running statistics keep.
    batch_norm_momentum: float = Field(0.8, ge=0, lt=1)

    def generator(self, image: ImageShape, inputs: int) -> nn.Module:
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise((inputs, *self.generator_widths)):
            norm = nn.BatchNorm1d(fan_out, eps=1e-3, momentum=1 - self.batch_norm_momentum)
            layers += [nn.Linear(fan_in, fan_out), nn.LeakyReLU(0.2, True), norm]
        pixels = image.channels * image.height * image.width
        layers += [nn.Linear(self.generator_widths[-1], pixels), nn.Tanh(), Reshape(*image)]
        return nn.Sequential(*layers).apply(initialise_keras)

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        pixels = image.channels * image.height * image.width
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise((pixels, *self.critic_widths)):
            layers += [nn.Linear(fan_in, fan_out), nn.LeakyReLU(0.2, True)]
        return nn.Sequential(*layers, nn.Linear(self.critic_widths[-1], 1 + heads)).apply(initialise_keras)
