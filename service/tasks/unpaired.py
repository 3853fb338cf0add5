"""Images carried between two domains of which no pairs are known (CycleGAN: Zhu et al. 2017, arXiv:1703.10593)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from service.models.networks import ImageShape, Network
from service.replicas.global_batch import GlobalBatch
from service.tasks import Made, Samples, Task, View, distance, translation_network


class Unpaired(Task):
    """Two generators, and a critic for each domain: ``a`` is the data set's, ``b`` that of ``data.domains``.

    Losses of the two directions are averaged, as in SelfGAN's notebooks; the CycleGAN authors add them up, which
    Adam does not notice. Critics see fakes out of a pool for each domain.
    """

    games: ClassVar[tuple[str, ...]] = ("b", "a")
    terms: ClassVar[tuple[str, ...]] = ("cycle", "identity")
    translates: ClassVar[bool] = True
    data_sets: ClassVar[int] = 2
    pool_size: int = Field(50, ge=0)
    cycle_weight: float = Field(10.0, ge=0)
    identity_weight: float = Field(5.0, ge=0)

    @property
    def pool(self) -> int:  # type: ignore[override]
        return self.pool_size

    def check(self, network: Network, image: ImageShape) -> None:
        translation_network(network).check(image)

    def generator(self, network: Network, image: ImageShape) -> nn.Module:
        translation = translation_network(network)
        return nn.ModuleDict({name: translation.translator(image, image) for name in ("a_to_b", "b_to_a")})

    def critic(self, network: Network, image: ImageShape) -> nn.Module:
        return network.critic(image)

    def draw(self, network: Network, batch: GlobalBatch) -> dict[str, Tensor]:
        return {}

    def make(self, generator: nn.Module, draw: Mapping[str, Tensor], real: Samples) -> Made:
        assert isinstance(generator, nn.ModuleDict)
        (a, b), to_b, to_a = (real.images, *real.others), generator["a_to_b"], generator["b_to_a"]
        in_b, in_a = to_b(a), to_a(b)
        cycle = distance(to_a(in_b), a) + distance(to_b(in_a), b)
        identity = distance(to_a(a), a) + distance(to_b(b), b)
        terms = {"cycle": self.cycle_weight / 2 * cycle, "identity": self.identity_weight / 2 * identity}
        return Made({"b": View(in_b), "a": View(in_a)}, terms)

    def seen(self, real: Samples) -> Mapping[str, View]:
        return {"b": View(real.others[0]), "a": View(real.images)}

    def examples(
        self, network: Network, seed: int, count: int, device: torch.device, real: Samples | None = None
    ) -> dict[str, Tensor]:
        assert real is not None
        return {"source": real.images}

    def images(self, generator: nn.Module, examples: Mapping[str, Tensor]) -> Tensor:
        """Those of domain b."""
        assert isinstance(generator, nn.ModuleDict)
        made: Tensor = generator["a_to_b"](examples["source"])
        return made

    def target(self, real: Samples) -> Tensor:
        return real.others[0]

    def shown(self, examples: Mapping[str, Tensor], made: Tensor) -> Tensor:
        """The source, and what was made of it, side by side."""
        return torch.cat([examples["source"], made], 3)
