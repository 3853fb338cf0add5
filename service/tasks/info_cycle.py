"""Images carried between any number of domains by one generator, judged by one critic (rezer0dai/info-cycle-sim-gan).

The data set's labels are its images' domains. The generator is given an image, the domain to carry it to and
some codes; the critic's heads tell domain and codes of what it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from service.models.networks import ImageShape, Network
from service.replicas import randomness
from service.replicas.global_batch import GlobalBatch
from service.tasks import Made, Samples, Task, View, distance, one_hot, translation_network


class InfoCycle(Task):
    """Fakes are compared with real images of the domain they were carried to.

    Weights are those of the author's code; his post has 5 for identity and 10 for the cycle.
    """

    terms: ClassVar[tuple[str, ...]] = ("identity", "cycle")
    fake_head_terms: ClassVar[tuple[str, ...]] = ("domain", "codes")
    real_head_terms: ClassVar[tuple[str, ...]] = ("label",)
    translates: ClassVar[bool] = True
    domains: int = Field(2, ge=2)
    codes: int = Field(4, ge=1)
    identity_weight: float = Field(0.5, ge=0)
    cycle_weight: float = Field(3.0, ge=0)
    domain_weight: float = Field(0.6, ge=0)
    codes_weight: float = Field(0.1, ge=0)
    label_weight: float = Field(0.4, ge=0)

    @property
    def labels(self) -> int:
        return self.domains

    @property
    def heads(self) -> int:
        return self.domains + self.codes

    def check(self, network: Network, image: ImageShape) -> None:
        translation_network(network).check(image)

    def generator(self, network: Network, image: ImageShape) -> nn.Module:
        source = image._replace(channels=image.channels + self.heads)
        return _Carrier(translation_network(network).translator(source, image))

    def critic(self, network: Network, image: ImageShape) -> nn.Module:
        return network.critic(image, heads=self.heads)

    def draw(self, network: Network, batch: GlobalBatch) -> dict[str, Tensor]:
        return {
            "shift": 1 + (batch.uniform("shift", 1)[:, 0] * (self.domains - 1)).long(),
            "codes": 2 * batch.uniform("codes", self.codes).to(batch.dtype) - 1,
        }

    def make(self, generator: nn.Module, draw: Mapping[str, Tensor], real: Samples) -> Made:
        here, there = self._domains(draw, real)
        images, codes = real.images, draw["codes"]
        carried = generator(images, there, codes)
        back, same = generator(carried, here, codes), generator(images, here, codes)
        terms = {
            "identity": self.identity_weight * distance(same, images),
            "cycle": self.cycle_weight * distance(back, images),
        }
        return Made({"image": View(carried, kinds=self._kinds(there))}, terms)

    def seen(self, real: Samples) -> Mapping[str, View]:
        return {"image": View(real.images, kinds=self._kinds(self._here(real)))}

    def head_terms(
        self, on_fake: Tensor, on_real: Tensor | None, draw: Mapping[str, Tensor], real: Samples
    ) -> Mapping[str, Tensor]:
        domain, codes = on_fake.split([self.domains, self.codes], 1)
        _, there = self._domains(draw, real)
        found = {
            "domain": self.domain_weight * self._domain_loss(domain, there),
            "codes": self.codes_weight * distance(torch.tanh(codes), draw["codes"]),
        }
        if on_real is not None:
            said = on_real[:, : self.domains]
            found["label"] = self.label_weight * self._label_loss(said, real.labels)
        return found

    def examples(
        self, network: Network, seed: int, count: int, device: torch.device, real: Samples | None = None
    ) -> dict[str, Tensor]:
        """Each source in turn, carried to the domain after its own."""
        assert real is not None
        there = one_hot((real.labels + 1) % self.domains, self.domains, real.images.dtype)
        codes = self._example_codes(seed, len(real.images), device)
        return {"source": real.images, "domain": there, "codes": codes}

    def translation(self, source: Tensor) -> dict[str, Tensor]:
        """Every source in every domain: all of them in the first, then all in the next."""
        domain = torch.arange(self.domains).repeat_interleave(len(source))
        return {
            "source": source.repeat(self.domains, 1, 1, 1),
            "domain": one_hot(domain, self.domains, source.dtype),
            "codes": source.new_zeros(len(domain), self.codes),
        }

    def images(self, generator: nn.Module, examples: Mapping[str, Tensor]) -> Tensor:
        made: Tensor = generator(examples["source"], examples["domain"], examples["codes"])
        return made

    def shown(self, examples: Mapping[str, Tensor], made: Tensor) -> Tensor:
        """The source, and where it was carried to, side by side."""
        return torch.cat([examples["source"], made], 3)

    def _example_codes(self, seed: int, count: int, device: torch.device) -> Tensor:
        rows = torch.arange(count, device=device)
        return 2 * randomness.uniform(randomness.key_of(seed, "example codes"), 0, rows, self.codes) - 1

    def _here(self, real: Samples) -> Tensor:
        """(N, domains), 0 or 1: where images come from."""
        return one_hot(real.labels, self.domains, real.images.dtype)

    def _kinds(self, domains: Tensor) -> Tensor | None:
        """Which samples may be compared: those of a domain."""
        return domains

    def _label_loss(self, said: Tensor, labels: Tensor) -> Tensor:
        """(N,), of what critics say of real samples' labels."""
        return F.cross_entropy(said, labels, reduction="none")

    def _domain_loss(self, said: Tensor, domains: Tensor) -> Tensor:
        """(N,), likewise, of the domains that images were carried to."""
        return F.cross_entropy(said, domains, reduction="none")

    def _domains(self, draw: Mapping[str, Tensor], real: Samples) -> tuple[Tensor, Tensor]:
        """Where images come from, and where they are carried to, which is somewhere else."""
        there = (real.labels + draw["shift"]) % self.domains
        return self._here(real), one_hot(there, self.domains, real.images.dtype)


class _Carrier(nn.Module):
    """A translator that sees domain and codes as more channels of the image."""

    def __init__(self, translator: nn.Module) -> None:
        super().__init__()
        self.translator = translator

    def forward(self, images: Tensor, domain: Tensor, codes: Tensor) -> Tensor:
        given = torch.cat([domain, codes], 1)[:, :, None, None].expand(-1, -1, *images.shape[2:])
        made: Tensor = self.translator(torch.cat([images, given], 1))
        return made
