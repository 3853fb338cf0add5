"""Tasks: what the networks are shown, and the losses beside the adversarial ones; one task a file.

A task plays one or more *games*, each a critic of its own that tells generated images from real ones.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pipelines.components import Component
from service.models.networks import ImageShape, LatentNetwork, Network, TranslationNetwork
from service.replicas.global_batch import GlobalBatch


class Samples(NamedTuple):
    """A replica's rows of a real batch.

    Attributes:
        images: (N, C, H, W) in [-1, 1].
        labels: (N,) int64, negative where there is none; of several to an image (N, A), of 0 and 1.
        paired: the images' partners, likewise, if the data set has pairs.
        others: images of the further domains of the data, likewise.
    """

    images: Tensor
    labels: Tensor
    paired: Tensor | None = None
    others: tuple[Tensor, ...] = ()

    def part(self, kept: slice) -> Samples:
        """Some of them."""
        paired = None if self.paired is None else self.paired[kept]
        return Samples(self.images[kept], self.labels[kept], paired, tuple(other[kept] for other in self.others))


class View(NamedTuple):
    """What a critic is shown.

    Attributes:
        images: (N, C, H, W).
        given: what they are to go with, if the critic is told.
        kinds: (N, K), one-hot: which samples may be compared with each other; all, if it is None.
    """

    images: Tensor
    given: Tensor | None = None
    kinds: Tensor | None = None

    def detached(self) -> View:
        given = None if self.given is None else self.given.detach()
        return View(self.images.detach(), given, self.kinds)

    @classmethod
    def joined(cls, views: Sequence[View]) -> View:
        """Views, one after the other, as one."""
        if len(views) == 1:
            return views[0]
        return cls(
            *(None if parts[0] is None else torch.cat(parts) for parts in zip(*views, strict=True))  # type: ignore[arg-type]
        )

    def part(self, kept: slice) -> View:
        """Some of its samples."""
        return View(*(None if value is None else value[kept] for value in self))  # type: ignore[arg-type]


class Made(NamedTuple):
    """What a generator has made.

    Attributes:
        views: by game.
        terms: weighted losses of the generator's, beside the adversarial ones: (N,) by name.
    """

    views: Mapping[str, View]
    terms: Mapping[str, Tensor]


class Task(Component):
    """What a generator is given, what it makes of it, and what critics see."""

    #: The games' names.
    games: ClassVar[tuple[str, ...]] = ("image",)

    #: Whether the data set must hold pairs.
    needs_pairs: ClassVar[bool] = False
    #: Whether images are made of images, which examples then are.
    translates: ClassVar[bool] = False
    #: Which of the examples holds the class, one-hot, that a user may choose; none, if it is empty.
    chosen: ClassVar[str] = ""
    #: Whether an image has several labels, of which a user may choose some; examples are then of real samples' labels.
    several: ClassVar[bool] = False
    #: How many data sets it takes, each of one domain.
    data_sets: ClassVar[int] = 1
    #: How many generated images each critic's fakes are drawn of; 0 shows them as they come.
    pool: ClassVar[int] = 0
    #: The names of the terms that `make` adds, and of those that `head_terms` makes of fake and of real samples.
    terms: ClassVar[tuple[str, ...]] = ()
    fake_head_terms: ClassVar[tuple[str, ...]] = ()
    real_head_terms: ClassVar[tuple[str, ...]] = ()

    @property
    def heads(self) -> int:
        """What the first game's critic says of an image beside its logits: so many numbers."""
        return 0

    @property
    def labels(self) -> int:
        """How many labels the data set must have, 0 .. labels - 1, or 0 or 1 for each; none, if it is 0."""
        return 0

    @abstractmethod
    def check(self, network: Network, image: ImageShape) -> None:
        """Raise ValueError, with the reason, if the networks cannot do the task."""

    @abstractmethod
    def generator(self, network: Network, image: ImageShape) -> nn.Module:
        """A new generator."""

    @abstractmethod
    def critic(self, network: Network, image: ImageShape) -> nn.Module:
        """A new critic of a game: of a view's images, and of what is given with them."""

    @abstractmethod
    def draw(self, network: Network, batch: GlobalBatch) -> dict[str, Tensor]:
        """The noise of the batch's present rows, by name."""

    def told(self, draw: Mapping[str, Tensor], real: Samples) -> Mapping[str, Tensor]:
        """What `images` takes: noise and, where images have several labels, those of real samples."""
        return draw

    @abstractmethod
    def make(self, generator: nn.Module, draw: Mapping[str, Tensor], real: Samples) -> Made:
        """What the generator makes of noise, and of real samples."""

    @abstractmethod
    def seen(self, real: Samples) -> Mapping[str, View]:
        """What the critics are shown of real samples, by game."""

    def head_terms(
        self, on_fake: Tensor, on_real: Tensor | None, draw: Mapping[str, Tensor], real: Samples
    ) -> Mapping[str, Tensor]:
        """Weighted losses, (N,) by name, of what critics say beside logits.

        Args:
            on_fake, on_real: (N, heads); the second is None where only the generator learns.
        """
        return {}

    @abstractmethod
    def examples(
        self, network: Network, seed: int, count: int, device: torch.device, real: Samples | None = None
    ) -> dict[str, Tensor]:
        """The same `count` inputs whenever `seed` is the same, anywhere: for samples and for users.

        Args:
            real: `count` samples, which a task that makes images of images takes instead.
        """

    def truncated(
        self, network: Network, seed: int, examples: Mapping[str, Tensor], threshold: float
    ) -> dict[str, Tensor]:
        """The same examples of a seed, with latents that are drawn again where they lie beyond a threshold.

        Raises:
            ValueError: it has no latents of N(0, 1), and so nothing that lies far out.
        """
        raise ValueError("truncation: this model was trained without latents of N(0, 1)")

    def translation(self, source: Tensor) -> dict[str, Tensor]:
        """Of images that a user has, the inputs to translate them; for tasks that make images of images."""
        return {"source": source}

    @abstractmethod
    def images(self, generator: nn.Module, examples: Mapping[str, Tensor]) -> Tensor:
        """The images that the generator makes of such inputs."""

    def target(self, real: Samples) -> Tensor:
        """Of real samples, the images that generated ones should be like."""
        return real.images

    def shown(self, examples: Mapping[str, Tensor], made: Tensor) -> Tensor:
        """What a person should see of examples, and the images made of them."""
        return made


def mean_terms(of_critics: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    """Losses of what critics say beside logits (`Task.head_terms`), (N,) by name for each critic: their means."""
    return [torch.stack(losses).mean(0) for losses in zip(*(found.values() for found in of_critics), strict=True)]


def distance(values: Tensor, others: Tensor) -> Tensor:
    """(N,), the mean absolute difference of each sample's values."""
    return (values - others).abs().flatten(1).mean(1)


def one_hot(labels: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """(N,) labels -> (N, count), without a look at their values."""
    return (labels[:, None] == torch.arange(count, device=labels.device)).to(dtype)


def latent_network(network: Network) -> LatentNetwork:
    """The network, if it makes images of vectors; else ValueError."""
    if not isinstance(network, LatentNetwork):
        raise ValueError(
            f"network {_name(network)} makes images of images, and this task has none to give it; "
            "set task=paired or task=unpaired, or take a network that makes images of noise, such as dcgan"
        )
    return network


def translation_network(network: Network) -> TranslationNetwork:
    """The network, if it makes images of images; else ValueError."""
    if not isinstance(network, TranslationNetwork):
        raise ValueError(
            f"network {_name(network)} makes images of noise, and this task is to make them of images; "
            "take one that translates, such as unet or resnet"
        )
    return network


def _name(network: Network) -> str:
    return type(network).__module__.rpartition(".")[2]
