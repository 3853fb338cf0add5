"""DCGAN of transposed convolutions, as the dog report's final table has it: 64x64x3."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from service.models.blocks import Reshape, initialise_dcgan
from service.models.networks import ImageShape, LatentNetwork


class TransposedDCGAN(LatentNetwork):
    """From 4x4 up by transposed convolutions, down to 2x2 by strided ones, always as wide; no batch norm.

    The report's guidelines ask for batch norm in both, and its table has none.
    """

    channels: int = Field(128, ge=1)
    #: The report says that there is some, and not how much.
    dropout: float = Field(0.25, ge=0, lt=1)

    def check(self, image: ImageShape) -> None:
        if image.height != image.width or image.height < 8 or image.height & (image.height - 1):
            raise ValueError(
                f"network dcgan_transposed needs square images whose side is a power of 2 and at least 8, not "
                f"{image.height}x{image.width}: set data.transform.size"
            )

    def generator(self, image: ImageShape, inputs: int) -> nn.Module:
        width = self.channels
        layers: list[nn.Module] = [nn.Linear(inputs, 16 * width), Reshape(width, 4, 4), nn.LeakyReLU(0.2, inplace=True)]
        for _ in range((image.height // 4).bit_length() - 1):
            layers += [nn.ConvTranspose2d(width, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        layers += [nn.Conv2d(width, image.channels, 8, padding="same"), nn.Tanh()]
        return nn.Sequential(*layers).apply(initialise_dcgan)

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        layers: list[nn.Module] = []
        fan_in = image.channels
        for _ in range((image.height // 2).bit_length() - 1):
            layers += [nn.Conv2d(fan_in, self.channels, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
            fan_in = self.channels
        layers += [nn.Flatten(), nn.Dropout(self.dropout), nn.Linear(4 * self.channels, 1 + heads)]
        return nn.Sequential(*layers).apply(initialise_dcgan)
