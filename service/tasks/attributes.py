"""Images of several attributes at once, such as CelebA's forty: both networks are told all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from service.models.networks import ImageShape, Network
from service.replicas.global_batch import GlobalBatch
from service.tasks import Made, Samples, Task, View, latent_network
from service.tasks.conditional import told_critic, told_generator
from service.tasks.unconditional import example_latents, in_turn, with_truncated


class Attributes(Task):
    """Latents, and the attributes of a real image in the same row: how often they come together is the data set's.

    Networks are given 0 or 1 for each, where `conditional` gives a class, one-hot; what they have learnt of each
    attribute that is there adds up.
    """

    chosen: ClassVar[str] = "attributes"
    several: ClassVar[bool] = True
    attributes: int = Field(40, ge=1)

    @property
    def labels(self) -> int:
        return self.attributes

    def check(self, network: Network, image: ImageShape) -> None:
        latent_network(network).check(image)

    def generator(self, network: Network, image: ImageShape) -> nn.Module:
        return told_generator(network, image, self.attributes)

    def critic(self, network: Network, image: ImageShape) -> nn.Module:
        return told_critic(network, image, self.attributes)

    def draw(self, network: Network, batch: GlobalBatch) -> dict[str, Tensor]:
        return {"latents": batch.normal("latents", latent_network(network).latent_dim)}

    def told(self, draw: Mapping[str, Tensor], real: Samples) -> dict[str, Tensor]:
        return {**draw, "attributes": real.labels.to(real.images.dtype)}

    def make(self, generator: nn.Module, draw: Mapping[str, Tensor], real: Samples) -> Made:
        told = self.told(draw, real)
        return Made({"image": View(self.images(generator, told), told["attributes"])}, {})

    def seen(self, real: Samples) -> Mapping[str, View]:
        return {"image": View(real.images, real.labels.to(real.images.dtype))}

    def examples(
        self, network: Network, seed: int, count: int, device: torch.device, real: Samples | None = None
    ) -> dict[str, Tensor]:
        """The attributes of real samples; of none, each attribute alone in turn, with the same latents for all."""
        if real is None:
            latents, attributes = in_turn(network, seed, count, self.attributes, device)
            return {"latents": latents, "attributes": attributes}
        return self.told({"latents": example_latents(network, seed, len(real.images), device)}, real)

    def truncated(
        self, network: Network, seed: int, examples: Mapping[str, Tensor], threshold: float
    ) -> dict[str, Tensor]:
        return with_truncated(network, seed, examples, threshold, self.attributes)

    def images(self, generator: nn.Module, examples: Mapping[str, Tensor]) -> Tensor:
        made: Tensor = generator(torch.cat([examples["latents"], examples["attributes"]], 1))
        return made
