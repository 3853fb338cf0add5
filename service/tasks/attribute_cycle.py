"""Images carried from some attributes to others by one generator (StarGAN: Choi et al. 2018, arXiv:1711.09020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from service.models.networks import Network
from service.replicas.global_batch import GlobalBatch
from service.tasks import Samples, one_hot
from service.tasks.info_cycle import InfoCycle


class AttributeCycle(InfoCycle):
    """As `info_cycle`, where an image is in several domains at once: each attribute is one. One of them is changed.

    Source: yunjey/stargan, whose loss of what the critic says of attributes is the sum of their binary cross entropies;
    it takes another image's attributes to train, and changes one to show.
    """

    several: ClassVar[bool] = True

    def draw(self, network: Network, batch: GlobalBatch) -> dict[str, Tensor]:
        changed = (batch.uniform("changed", 1)[:, 0] * self.domains).long()
        codes = 2 * batch.uniform("codes", self.codes).to(batch.dtype) - 1
        return {"changed": one_hot(changed, self.domains, batch.dtype), "codes": codes}

    def examples(
        self, network: Network, seed: int, count: int, device: torch.device, real: Samples | None = None
    ) -> dict[str, Tensor]:
        """Of the sources in turn, each with another of its attributes changed."""
        assert real is not None
        turns = torch.arange(len(real.images), device=device) % self.domains
        changed = one_hot(turns, self.domains, real.images.dtype)
        codes = self._example_codes(seed, len(real.images), device)
        return {"source": real.images, "domain": self._domains({"changed": changed}, real)[1], "codes": codes}

    def _here(self, real: Samples) -> Tensor:
        return real.labels.to(real.images.dtype)

    def _domains(self, draw: Mapping[str, Tensor], real: Samples) -> tuple[Tensor, Tensor]:
        here = self._here(real)
        return here, (here - draw["changed"]).abs()

    def _kinds(self, domains: Tensor) -> Tensor | None:
        return None

    def _label_loss(self, said: Tensor, labels: Tensor) -> Tensor:
        return self._domain_loss(said, labels.to(said.dtype))

    def _domain_loss(self, said: Tensor, domains: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(said, domains, reduction="none").sum(1)
