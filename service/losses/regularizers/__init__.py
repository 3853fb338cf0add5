"""Regularizers: penalties, norms and noise that keep a critic smooth, one a file. Several may be used at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pipelines.components import Component
from service.losses.objectives import Objective, Scores
from service.replicas.global_batch import GlobalBatch
from service.tasks import View

#: Images and what is given with them -> the critic's logits, (N, F).
Critic = Callable[[View], Tensor]
#: Where a critic's gradient may be taken: at real images, or at those of a generator.
Place = Literal["real", "fake"]


class Regularizer(Component):
    """Shapes a critic when it is built, adds to its loss, or mends its weights. The default does nothing."""

    @property
    def penalises(self) -> bool:
        """Whether it has a penalty."""
        return type(self).penalty is not Regularizer.penalty

    def check(self, objective: Objective) -> None:
        """Raise ValueError, with the reason, if critics that are trained so cannot be regularized so."""

    def prepare(self, critics: nn.ModuleDict) -> None:
        """Change new critics, which are by game."""

    def prepare_generator(self, generator: nn.Module) -> None:
        """Change a new generator; what is registered is a plain one, with the weights that it computes with."""

    def see_real(self, critic: nn.Module, scores: Scores, objective: Objective) -> None:
        """Look at what a critic says of the whole batch's real samples, the same on every replica."""

    def metrics(self, critics: nn.ModuleDict) -> dict[str, Tensor]:
        """What is to be shown of it beside the losses, each a 0-dimensional tensor of its own."""
        return {}

    def penalty(self, critic: Critic, fake: View, real: View, batch: GlobalBatch) -> Tensor | None:
        """A weighted loss of the critic's, (N,), beside the adversarial ones; differentiable."""
        return None

    def due(self, step: int) -> bool:
        """Whether there is a penalty at this step."""
        return True

    def mend(self, critics: nn.ModuleDict) -> None:
        """Change the weights, before each of the critic's updates."""


class OfGradient(Regularizer):
    """A penalty of the critic's gradient at images that its loss shows it anyway.

    Attributes:
        place: which images these are.
    """

    place: ClassVar[Place]

    @property
    @abstractmethod
    def every_step(self) -> bool:
        """Whether there is a penalty at every step."""

    @abstractmethod
    def of_gradient(self, gradient: Tensor, batch: GlobalBatch) -> Tensor:
        """(N,), of the critic's gradient (N, C, H, W) there."""

    def penalty(self, critic: Critic, fake: View, real: View, batch: GlobalBatch) -> Tensor:
        return self.of_gradient(gradient_of(critic, real if self.place == "real" else fake), batch)

    @property
    def shares(self) -> bool:
        """Whether the loss's own pass serves for it: not for a derived part's penalty, which may be another one."""
        return self.every_step and type(self).penalty is OfGradient.penalty


def gradient_of(critic: Critic, view: View) -> Tensor:
    """The gradient of the sum of a sample's logits by its image, (N, C, H, W), to be differentiated again."""
    images = view.images.detach().requires_grad_()
    # Each replica sums its own rows' logits: where rows depend on each other, what crosses replicas adds up.
    total = critic(view._replace(images=images)).sum()
    (gradient,) = torch.autograd.grad(total, images, create_graph=True)
    return gradient


def per_sample(values: Tensor, images: Tensor) -> Tensor:
    """(N or 1, 1) values -> a shape and a type that go with (N, C, H, W) images."""
    return values.to(images.dtype)[:, :, None, None]
