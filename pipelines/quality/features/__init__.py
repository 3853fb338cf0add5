"""Feature networks: what images are compared in, one a file.

Figures of different feature networks have nothing to do with each other, so each has a fingerprint, which is part
of an evaluation's own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from pipelines.components import Component, ConfigError
from pipelines.data.images import Transform
from pipelines.data.shards import Manifest
from pipelines.storage.location import Location


class Reference(NamedTuple):
    """A data set, as images are compared with it.

    Attributes:
        folder: the data set's.
        kept: for what is made once for each version of it.
    """

    folder: Location
    manifest: Manifest
    transform: Transform
    kept: Location


class Features(NamedTuple):
    """What a network makes of N images.

    Attributes:
        values: (N, D), float32.
        classes: (N,), of the data set's labels; -1 where it tells none.
        logits: (N, K), of the classes that it was trained on, for an Inception score; None where it tells none.
    """

    values: Tensor
    classes: Tensor
    logits: Tensor | None = None


class Extractor(Protocol):
    """A network that is ready: on the CPU, in evaluation mode."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor] | Features:
        """Of (N, C, H, W) uint8: `Features`, or the first two of them."""

    def to(self, device: str) -> nn.Module: ...


class FeatureNetwork(Component):
    """A network whose features images are compared in."""

    @abstractmethod
    def open(self, reference: Reference, tell: Callable[[str], None]) -> tuple[Extractor, str]:
        """The network and its fingerprint: of its weights and of how images are brought to its size.

        Args:
            tell: what takes minutes, to the person who waits.

        Raises:
            ConfigError: its weights cannot be had, or the data set is not one for it.
        """


def weights_at(place: str, url: str) -> bytes:
    """What a file or URI of a network's weights holds; nothing is downloaded.

    Args:
        url: where its authors have them.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return Location.of(place).read()
    except OSError as error:
        raise ConfigError(
            f"features.weights: {place} cannot be read ({type(error).__name__}); "
            f"fetch {url} there, or name another place"
        ) from error
