"""Images made of their partners (Pix2Pix: Isola et al. 2017, arXiv:1611.07004)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from service.models.networks import ImageShape, Network
from service.replicas.global_batch import GlobalBatch
from service.tasks import Made, Samples, Task, View, distance, translation_network


class Paired(Task):
    """The critic sees an image beside its source; the generator is also to be near the true one, in the mean.

    `makes` says which of a pair is made of the other: in facades photographs are the first, ``image``.
    """

    terms: ClassVar[tuple[str, ...]] = ("distance",)
    needs_pairs: ClassVar[bool] = True
    translates: ClassVar[bool] = True
    makes: Literal["image", "paired"] = "image"
    distance_weight: float = Field(100.0, ge=0)

    def check(self, network: Network, image: ImageShape) -> None:
        translation_network(network).check(image)

    def generator(self, network: Network, image: ImageShape) -> nn.Module:
        return translation_network(network).translator(image, image)

    def critic(self, network: Network, image: ImageShape) -> nn.Module:
        return _PairCritic(network.critic(image._replace(channels=2 * image.channels)))

    def draw(self, network: Network, batch: GlobalBatch) -> dict[str, Tensor]:
        return {}

    def make(self, generator: nn.Module, draw: Mapping[str, Tensor], real: Samples) -> Made:
        target, source = self._of(real)
        made: Tensor = generator(source)
        terms = {"distance": self.distance_weight * distance(made, target)}
        return Made({"image": View(made, source)}, terms)

    def seen(self, real: Samples) -> Mapping[str, View]:
        return {"image": View(*self._of(real))}

    def examples(
        self, network: Network, seed: int, count: int, device: torch.device, real: Samples | None = None
    ) -> dict[str, Tensor]:
        assert real is not None
        target, source = self._of(real)
        return {"source": source, "target": target}

    def images(self, generator: nn.Module, examples: Mapping[str, Tensor]) -> Tensor:
        made: Tensor = generator(examples["source"])
        return made

    def target(self, real: Samples) -> Tensor:
        return self._of(real)[0]

    def shown(self, examples: Mapping[str, Tensor], made: Tensor) -> Tensor:
        """The source, what was made of it, and the true image, side by side."""
        return torch.cat([examples["source"], made, examples["target"]], 3)

    def _of(self, real: Samples) -> tuple[Tensor, Tensor]:
        """Of real samples, what is to be made, and what of."""
        assert real.paired is not None
        return (real.images, real.paired) if self.makes == "image" else (real.paired, real.images)


class _PairCritic(nn.Module):
    """A critic that sees an image's source as more of its channels."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, images: Tensor, sources: Tensor) -> Tensor:
        logits: Tensor = self.critic(torch.cat([images, sources], 1))
        return logits
