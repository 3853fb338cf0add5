"""Several fully connected generators that share all but noise (rezer0dai/info-cycle-sim-gan's NoisyNet heads)."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field, PositiveInt
from torch import nn

from service.models.blocks import Reshape
from service.models.networks import ImageShape, LatentNetwork
from service.models.networks.mlp import MLP
from service.models.noisy import NoisyHeads


class NoisyMLP(LatentNetwork):
    """Sample i of a batch is made by generator i mod `generators`; all are judged by the same critics."""

    generators: int = Field(3, ge=1)
    generator_widths: tuple[PositiveInt, ...] = Field((128, 256, 512, 1024), min_length=1)
    critic_widths: tuple[PositiveInt, ...] = Field((512, 256), min_length=1)
    #: Of the noise of every weight at first.
    deviation: float = Field(0.017, ge=0)

    def generator(self, image: ImageShape, inputs: int) -> nn.Module:
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise((inputs, *self.generator_widths)):
            layers += [NoisyHeads(fan_in, fan_out, self.generators, self.deviation), nn.ReLU()]
        pixels = image.channels * image.height * image.width
        last = NoisyHeads(self.generator_widths[-1], pixels, self.generators, self.deviation)
        return nn.Sequential(*layers, last, nn.Tanh(), Reshape(*image))

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        return MLP(critic_widths=self.critic_widths).critic(image, heads)
