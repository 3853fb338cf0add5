"""Images of a class (Mirza and Osindero 2014, arXiv:1411.1784): both networks are told which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from service.models.networks import ClassNetwork, ImageShape, Network
from service.replicas.global_batch import GlobalBatch
from service.tasks import Made, Samples, Task, View, latent_network, one_hot
from service.tasks.unconditional import in_turn, with_truncated


class Conditional(Task):
    """Latents and a class, drawn evenly; labels of real images are the data set's.

    The generator is given the class beside its latents, the critic as one more channel of the image: a learnt
    plane for each class. A `ClassNetwork` takes it in its own way.
    """

    chosen: ClassVar[str] = "classes"
    classes: int = Field(10, ge=2)

    @property
    def labels(self) -> int:
        return self.classes

    def check(self, network: Network, image: ImageShape) -> None:
        latent_network(network).check(image)

    def generator(self, network: Network, image: ImageShape) -> nn.Module:
        return told_generator(network, image, self.classes)

    def critic(self, network: Network, image: ImageShape) -> nn.Module:
        return told_critic(network, image, self.classes)

    def draw(self, network: Network, batch: GlobalBatch) -> dict[str, Tensor]:
        classes = (batch.uniform("classes", 1)[:, 0] * self.classes).long()
        return {
            "latents": batch.normal("latents", latent_network(network).latent_dim),
            "classes": one_hot(classes, self.classes, batch.dtype),
        }

    def make(self, generator: nn.Module, draw: Mapping[str, Tensor], real: Samples) -> Made:
        return Made({"image": View(self.images(generator, draw), draw["classes"], draw["classes"])}, {})

    def seen(self, real: Samples) -> Mapping[str, View]:
        classes = one_hot(real.labels, self.classes, real.images.dtype)
        return {"image": View(real.images, classes, classes)}

    def examples(
        self, network: Network, seed: int, count: int, device: torch.device, real: Samples | None = None
    ) -> dict[str, Tensor]:
        """Every class in turn, with the same latents for one of each."""
        latents, classes = in_turn(network, seed, count, self.classes, device)
        return {"latents": latents, "classes": classes}

    def truncated(
        self, network: Network, seed: int, examples: Mapping[str, Tensor], threshold: float
    ) -> dict[str, Tensor]:
        return with_truncated(network, seed, examples, threshold, self.classes)

    def images(self, generator: nn.Module, examples: Mapping[str, Tensor]) -> Tensor:
        made: Tensor = generator(torch.cat([examples["latents"], examples["classes"]], 1))
        return made


def told_generator(network: Network, image: ImageShape, classes: int) -> nn.Module:
    """A generator of latents, and of 0 or 1 for each class."""
    latents = latent_network(network)
    if isinstance(latents, ClassNetwork):
        return latents.class_generator(image, latents.latent_dim, classes)
    return latents.generator(image, latents.latent_dim + classes)


def told_critic(network: Network, image: ImageShape, classes: int) -> nn.Module:
    """A critic of images, and of 0 or 1 for each class."""
    if isinstance(network, ClassNetwork):
        return network.class_critic(image, classes)
    return _ToldCritic(network.critic(image._replace(channels=image.channels + 1)), classes, image)


class _ToldCritic(nn.Module):
    """A critic that sees the class as a plane beside the image."""

    def __init__(self, critic: nn.Module, classes: int, image: ImageShape) -> None:
        super().__init__()
        self.critic = critic
        self.planes = nn.Linear(classes, image.height * image.width, bias=False)

    def forward(self, images: Tensor, classes: Tensor) -> Tensor:
        plane = self.planes(classes).view(len(images), 1, *images.shape[2:])
        logits: Tensor = self.critic(torch.cat([images, plane], 1))
        return logits
