"""DCGAN of transposed convolutions, as the dog report's final table has it: 64x64x3."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from service.models.blocks import Reshape, initialise_dcgan
from service.models.networks import SET_SIZE, ImageShape, LatentNetwork


class TransposedDCGAN(LatentNetwork):
    """From 4x4 up by transposed convolutions, down to 2x2 by strided ones, always as wide; no batch norm.

    Images that are no squares begin elsewhere (`ImageShape.starts`): 64x32 at 4x2.
    The report's guidelines ask for batch norm in both, and its table has none.
    """

    channels: int = Field(128, ge=1)
    #: The report says that there is some, and not how much.
    dropout: float = Field(0.25, ge=0, lt=1)

    def check(self, image: ImageShape) -> None:
        if max(image.starts(), default=0) == 0:
            raise ValueError(
                f"network dcgan_transposed makes images of 8x8, 16x16, 32x32 and so on, and not of {image.size}: "
                f"{SET_SIZE}"
            )

    def generator(self, image: ImageShape, inputs: int) -> nn.Module:
        width = self.channels
        doublings, (rows, columns) = max(image.starts().items())
        layers: list[nn.Module] = [
            nn.Linear(inputs, rows * columns * width), Reshape(width, rows, columns), nn.LeakyReLU(0.2, inplace=True),
        ]  # fmt: skip
        for _ in range(doublings):
            layers += [nn.ConvTranspose2d(width, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        layers += [nn.Conv2d(width, image.channels, 8, padding="same"), nn.Tanh()]
        return nn.Sequential(*layers).apply(initialise_dcgan)

    def critic(self, image: ImageShape, heads: int = 0) -> nn.Module:
        layers: list[nn.Module] = []
        fan_in = image.channels
        doublings, (rows, columns) = max(image.starts().items())
        for _ in range(doublings + 1):
            layers += [nn.Conv2d(fan_in, self.channels, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
            fan_in = self.channels
        features = self.channels * -(-rows // 2) * -(-columns // 2)
        layers += [nn.Flatten(), nn.Dropout(self.dropout), nn.Linear(features, 1 + heads)]
        return nn.Sequential(*layers).apply(initialise_dcgan)
