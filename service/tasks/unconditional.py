"""Images from noise alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from service.models.networks import ImageShape, Network
from service.replicas import randomness
from service.replicas.global_batch import GlobalBatch
from service.tasks import Made, Samples, Task, View, latent_network, one_hot

#: Names the draw of latents for samples and users.
_EXAMPLES = "example latents"


class Unconditional(Task):
    """Latents (N, latent_dim), drawn from N(0, 1) or evenly from [-1, 1]."""

    latents: Literal["normal", "uniform"] = "normal"

    def check(self, network: Network, image: ImageShape) -> None:
        latent_network(network).check(image)

    def generator(self, network: Network, image: ImageShape) -> nn.Module:
        latents = latent_network(network)
        return latents.generator(image, latents.latent_dim)

    def critic(self, network: Network, image: ImageShape) -> nn.Module:
        return network.critic(image)

    def draw(self, network: Network, batch: GlobalBatch) -> dict[str, Tensor]:
        count = latent_network(network).latent_dim
        if self.latents == "uniform":
            return {"latents": 2 * batch.uniform("latents", count).to(batch.dtype) - 1}
        return {"latents": batch.normal("latents", count)}

    def make(self, generator: nn.Module, draw: Mapping[str, Tensor], real: Samples) -> Made:
        return Made({"image": View(generator(draw["latents"]))}, {})

    def seen(self, real: Samples) -> Mapping[str, View]:
        return {"image": View(real.images)}

    def examples(
        self, network: Network, seed: int, count: int, device: torch.device, real: Samples | None = None
    ) -> dict[str, Tensor]:
        if self.latents == "uniform":
            key, rows = randomness.key_of(seed, _EXAMPLES), torch.arange(count, device=device)
            return {"latents": 2 * randomness.uniform(key, 0, rows, latent_network(network).latent_dim) - 1}
        return {"latents": example_latents(network, seed, count, device)}

    def truncated(
        self, network: Network, seed: int, examples: Mapping[str, Tensor], threshold: float
    ) -> dict[str, Tensor]:
        if self.latents != "normal":
            return super().truncated(network, seed, examples, threshold)
        return with_truncated(network, seed, examples, threshold)

    def images(self, generator: nn.Module, examples: Mapping[str, Tensor]) -> Tensor:
        made: Tensor = generator(examples["latents"])
        return made


def example_latents(network: Network, seed: int, count: int, device: torch.device) -> Tensor:
    """(count, latent_dim) latents that depend on the seed alone."""
    key = randomness.key_of(seed, _EXAMPLES)
    return randomness.normal(key, 0, torch.arange(count, device=device), latent_network(network).latent_dim)


def with_truncated(
    network: Network, seed: int, examples: Mapping[str, Tensor], threshold: float, kinds: int = 1
) -> dict[str, Tensor]:
    """Examples whose latents, the same for one of each kind, lie within a threshold.

    BigGAN's truncation trick (Brock et al. 2019, arXiv:1809.11096): values beyond it are drawn again. So each image is
    the more like others of its class, the lower the threshold.
    """
    numbers = torch.arange(len(examples["latents"]), device=examples["latents"].device)
    rows = numbers[: -(-len(numbers) // kinds)]
    key = randomness.key_of(seed, _EXAMPLES)
    latents = randomness.truncated_normal(key, rows, latent_network(network).latent_dim, threshold)
    return {**examples, "latents": latents[numbers // kinds]}


def in_turn(network: Network, seed: int, count: int, kinds: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Example latents, and a kind for each, one-hot: every kind in turn, with the same latents for one of each."""
    numbers = torch.arange(count, device=device)
    latents = example_latents(network, seed, -(-count // kinds), device)[numbers // kinds]
    return latents, one_hot(numbers % kinds, kinds, latents.dtype)
