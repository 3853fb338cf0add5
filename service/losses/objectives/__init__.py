"""Objectives: adversarial losses of the critic's logits, one a file.

A loss sees the logits of the whole batch, wherever they were computed, so a mean over samples in it is the
batch's. All of it is written for one device, on (shards, samples, outputs) tensors whose shards do not mix.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import Tensor

from pipelines.components import Component


class Scores(NamedTuple):
    """What a critic says of some samples of the batch.

    Attributes:
        logits: (shards, S, F), high for what it holds to be real; F is 1, or the patches of a patch critic.
        kinds: (shards, S, K), one-hot: what kind each sample is of; None where there is but one.
        draw: name -> (shards, S, 1) values uniform on [0, 1), another for every sample and name.
    """

    logits: Tensor
    kinds: Tensor | None
    draw: Callable[[str], Tensor]


class Objective(Component):
    """An adversarial loss. Methods return one value for each shard, (shards,)."""

    #: Whether no term is ever negative, as weights that follow the losses need.
    non_negative: ClassVar[bool] = True
    #: Whether the generator's loss looks at real samples too.
    relative: ClassVar[bool] = False
    #: How many outputs of a critic it needs at least.
    least_outputs: ClassVar[int] = 1
    #: Whether the critic's term on a fake always has a gradient, however sure the critic is.
    slopes_on_fakes: ClassVar[bool] = True
    #: What its author multiplies the sum of the critic's two terms by.
    critic_factor: ClassVar[float] = 1.0

    @abstractmethod
    def generator(self, fake: Scores, real: Scores) -> Tensor:
        """The generator's loss. Unless it is `relative`, `real` is not to be looked at."""

    @abstractmethod
    def critic(self, fake: Scores, real: Scores) -> tuple[Tensor, Tensor]:
        """The critic's loss in two terms: on real samples, and on fake ones."""

    def validity(self, logits: Tensor) -> Tensor | None:
        """How real the critic holds samples to be, 0 to 1 where it is sure; None where logits have no such scale."""
        return None

    def verdicts(self, logits: Tensor) -> Tensor | None:
        """1 where the critic takes samples for real, -1 where for fake; None where logits alone do not say."""
        validity = self.validity(logits)
        return None if validity is None else (validity - 0.5).sign()


def batch_mean(values: Tensor) -> Tensor:
    """(shards, S, F) -> (shards,)."""
    return values.mean((1, 2))
