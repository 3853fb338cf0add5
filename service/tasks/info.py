"""Images whose codes can be read off them (InfoGAN: Chen et al. 2016, arXiv:1606.03657; openai/InfoGAN)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from service.models.networks import ImageShape, Network
from service.replicas.global_batch import GlobalBatch
from service.tasks import Made, Samples, Task, View, latent_network, one_hot
from service.tasks.unconditional import in_turn, with_truncated


class Info(Task):
    """Latents, one category and some codes in [-1, 1]; the critic's heads are to tell the latter two.

    Both networks minimise what the heads get wrong, as in the author's code: the category's cross entropy, and
    the squared distance of each code from what is said, halved (a Gaussian of variance 1).
    """

    chosen: ClassVar[str] = "category"
    fake_head_terms: ClassVar[tuple[str, ...]] = ("category", "codes")
    categories: int = Field(10, ge=2)
    codes: int = Field(2, ge=0)
    category_weight: float = Field(1.0, ge=0)
    codes_weight: float = Field(1.0, ge=0)
    #: How much the category is to be the data set's label of real images (rezer0dai: 0.4); 0 leaves it free.
    label_weight: float = Field(0.0, ge=0)

    @property
    def real_head_terms(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("label",) if self.label_weight else ()

    @property
    def labels(self) -> int:
        return self.categories if self.label_weight else 0

    @property
    def heads(self) -> int:
        return self.categories + self.codes

    def check(self, network: Network, image: ImageShape) -> None:
        latent_network(network).check(image)

    def generator(self, network: Network, image: ImageShape) -> nn.Module:
        latents = latent_network(network)
        return latents.generator(image, latents.latent_dim + self.heads)

    def critic(self, network: Network, image: ImageShape) -> nn.Module:
        return network.critic(image, heads=self.heads)

    def draw(self, network: Network, batch: GlobalBatch) -> dict[str, Tensor]:
        category = (batch.uniform("category", 1)[:, 0] * self.categories).long()
        return {
            "latents": batch.normal("latents", latent_network(network).latent_dim),
            "category": one_hot(category, self.categories, batch.dtype),
            "codes": 2 * batch.uniform("codes", self.codes).to(batch.dtype) - 1,
        }

    def make(self, generator: nn.Module, draw: Mapping[str, Tensor], real: Samples) -> Made:
        return Made({"image": View(self.images(generator, draw))}, {})

    def seen(self, real: Samples) -> Mapping[str, View]:
        return {"image": View(real.images)}

    def head_terms(
        self, on_fake: Tensor, on_real: Tensor | None, draw: Mapping[str, Tensor], real: Samples
    ) -> Mapping[str, Tensor]:
        category, codes = on_fake.split([self.categories, self.codes], 1)
        found = {
            "category": self.category_weight * F.cross_entropy(category, draw["category"], reduction="none"),
            "codes": self.codes_weight * (codes - draw["codes"]).square().sum(1) / 2,
        }
        if self.label_weight and on_real is not None:
            said = on_real[:, : self.categories]
            found["label"] = self.label_weight * F.cross_entropy(said, real.labels, reduction="none")
        return found

    def examples(
        self, network: Network, seed: int, count: int, device: torch.device, real: Samples | None = None
    ) -> dict[str, Tensor]:
        """Every category in turn, with the same latents for one of each; the first code grows from round to round."""
        latents, category = in_turn(network, seed, count, self.categories, device)
        rounds = torch.arange(count, device=device) // self.categories
        codes = torch.zeros(count, self.codes, device=device)
        codes[:, :1] = torch.linspace(-1, 1, max(-(-count // self.categories), 2), device=device)[rounds, None]
        return {"latents": latents, "category": category, "codes": codes}

    def truncated(
        self, network: Network, seed: int, examples: Mapping[str, Tensor], threshold: float
    ) -> dict[str, Tensor]:
        return with_truncated(network, seed, examples, threshold, self.categories)

    def images(self, generator: nn.Module, examples: Mapping[str, Tensor]) -> Tensor:
        made: Tensor = generator(torch.cat([examples["latents"], examples["category"], examples["codes"]], 1))
        return made
