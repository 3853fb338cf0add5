"""DCGAN as in SelfGAN's PyTorch notebook, from PyTorch-GAN's dcgan.py: 32x32 MNIST, 64x64 bedrooms."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import nn

from service.models.blocks import Reshape, Upsampling, doubling, initialise_dcgan
from service.models.minibatch import MinibatchDeviation, MinibatchDiscrimination
from service.models.networks import ImageShape, LatentNetwork
from service.models.patches import PatchCritic


class DCGAN(LatentNetwork):
    """Two doublings from a quarter of the size up; four halvings down. The defaults are the notebook's."""

    #: Channels of the generator's first two stages; the third has half as many.
    generator_channels: int = Field(128, ge=1)
    upsampling: Upsampling = "nearest"
    #: Channels of the critic's first stage; each further one has twice as many.
    critic_channels: int = Field(16, ge=1)
    #: How often the critic halves its input.
    critic_stages: int = Field(4, ge=1)
    #: Batch norm after all but the critic's first stage. Where the last stage leaves a single pixel it takes
    #: the mean logit of every pass away, and with it all that tells real images from generated ones.
    critic_batch_norm: bool = True
    #: Whether the critic judges every patch of its last stage, and not the image as a whole.
    patches: bool = False
    #: What the critic is told, before its last layer, of how the samples of the batch differ.
    minibatch: Literal["none", "deviation", "discrimination"] = "none"
    dropout: float = 0.25
    #: The notebook writes ``BatchNorm2d(n, 0.8)``: 0.8 is the epsilon there, whatever was meant.
    batch_norm_eps: float = 0.8

    def check(self, image: ImageShape) -> None:
        factor = max(4, 2**self.critic_stages)
        if image.height % factor or image.width % factor:
            raise ValueError(
                f"network dcgan needs sides that {factor} divides, not {image.size}: set data.transform.size"
            )
        if self.critic_batch_norm and 2**self.critic_stages == image.height == image.width:
            raise ValueError(
                f"network dcgan: {self.critic_stages} critic stages leave one pixel of {image.height}x{image.width} "
                "images, where batch norm hides what tells real from generated; set network.critic_stages lower "
                "or network.critic_batch_norm=false"
            )

        if self.patches and self.minibatch == "discrimination":
            raise ValueError("network dcgan: minibatch discrimination is of whole images; set network.patches=false")

    def generator(self, image: ImageShape, inputs: int) -> nn.Module:
        wide, narrow = self.generator_channels, self.generator_channels // 2
        height, width = image.height // 4, image.width // 4
        return nn.Sequential(
            nn.Linear(inputs, wide * height * width),
            Reshape(wide, height, width),
            nn.BatchNorm2d(wide),
            doubling(self.upsampling, wide, wide),
            nn.BatchNorm2d(wide, self.batch_norm_eps),
            nn.LeakyReLU(0.2, inplace=True),
            doubling(self.upsampling, wide, narrow),
            nn.BatchNorm2d(narrow, self.batch_norm_eps),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(narrow, image.channels, 3, padding=1),
            nn.Tanh(),
        ).apply(initialise_dcgan)

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        widths = [self.critic_channels * 2**stage for stage in range(self.critic_stages)]
        layers: list[nn.Module] = []
        for index, (fan_in, fan_out) in enumerate(pairwise((image.channels, *widths))):
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
            layers.append(nn.Dropout2d(self.dropout))
            if self.critic_batch_norm and index > 0:
                layers.append(nn.BatchNorm2d(fan_out, self.batch_norm_eps))
        if self.minibatch == "deviation":
            layers.append(MinibatchDeviation())
            widths[-1] += 1
        if self.patches:
            last = nn.Conv2d(widths[-1], 1, 3, padding=1, bias=False)
            return PatchCritic(nn.Sequential(*layers), last, widths[-1], heads).apply(initialise_dcgan)
        factor = 2**self.critic_stages
        features = widths[-1] * (image.height // factor) * (image.width // factor)
        layers.append(nn.Flatten())
        if self.minibatch == "discrimination":
            discrimination = MinibatchDiscrimination(features)
            layers.append(discrimination)
            features += discrimination.kernels
        return nn.Sequential(*layers, nn.Linear(features, 1 + heads)).apply(initialise_dcgan)
