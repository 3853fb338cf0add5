"""Images from noise alone."""

from __future__ import annotations

import torch
from torch import Tensor

from service import randomness
from service.batch import GlobalBatch
from service.networks import Network
from service.tasks import Task


class Unconditional(Task):
    """Latents (N, latent_dim), drawn from N(0, 1)."""

    def inputs(self, network: Network, batch: GlobalBatch) -> Tensor:
        return batch.normal("latents", network.latent_dim)

    def examples(self, network: Network, seed: int, count: int, device: torch.device) -> Tensor:
        key = randomness.key_of(seed, "example latents")
        return randomness.normal(key, 0, torch.arange(count, device=device), network.latent_dim)
