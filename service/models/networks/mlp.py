"""Fully connected generator and critic: SelfGAN's "GAN" in its PyTorch notebook, from PyTorch-GAN's gan.py."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, PositiveInt
from torch import nn

from service.models.blocks import Reshape
from service.models.networks import ImageShape, LatentNetwork


class MLP(LatentNetwork):
    """Layers of the given widths. The defaults are the notebook's."""

    generator_widths: tuple[PositiveInt, ...] = Field((128, 256, 512, 1024), min_length=1)
    critic_widths: tuple[PositiveInt, ...] = Field((512, 256), min_length=1)
    generator_activation: Literal["leaky_relu", "relu"] = "leaky_relu"
    #: Batch norm after all but the generator's first layer; or after that one too, as in the dog report.
    batch_norm: bool = True
    first_batch_norm: bool = False
    #: The notebook writes ``BatchNorm1d(n, 0.8)``: 0.8 is the epsilon there, whatever was meant.
    batch_norm_eps: float = 0.8
    #: What its scales start as: ones, or drawn from U(0, 1), as torch before version 1.2 drew them. SelfGAN's notebook
    #: is of that time, and the paper's pictures are made with it.
    batch_norm_scale: Literal["ones", "uniform"] = "ones"

    def generator(self, image: ImageShape, inputs: int) -> nn.Module:
        layers: list[nn.Module] = []
        for index, (fan_in, fan_out) in enumerate(pairwise((inputs, *self.generator_widths))):
            layers.append(nn.Linear(fan_in, fan_out))
            if self.batch_norm and (index > 0 or self.first_batch_norm):
                layers.append(self._batch_norm(fan_out))
            layers.append(nn.ReLU(True) if self.generator_activation == "relu" else nn.LeakyReLU(0.2, True))
        pixels = image.channels * image.height * image.width
        return nn.Sequential(*layers, nn.Linear(self.generator_widths[-1], pixels), nn.Tanh(), Reshape(*image))

    def _batch_norm(self, width: int) -> nn.Module:
        norm = nn.BatchNorm1d(width, self.batch_norm_eps)
        if self.batch_norm_scale == "uniform":
            nn.init.uniform_(norm.weight)
        return norm

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        pixels = image.channels * image.height * image.width
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise((pixels, *self.critic_widths)):
            layers += [nn.Linear(fan_in, fan_out), nn.LeakyReLU(0.2, True)]
        return nn.Sequential(*layers, nn.Linear(self.critic_widths[-1], 1 + heads))
