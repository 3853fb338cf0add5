"""R1: the critic's gradient at real images (Mescheder et al. 2018, arXiv:1801.04406), lazily as in StyleGAN2."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from service.losses.regularizers import Critic, Place, Regularizer, gradient_of
from service.losses.schedules import Scheduled, now, within
from service.replicas.global_batch import GlobalBatch
from service.tasks import View


class R1(Regularizer):
    """``weight / 2 |gradient|^2``, every so many steps and as many times as heavy (Karras et al. 2020: 16)."""

    place: ClassVar[Place] = "real"
    weight: Annotated[Scheduled, within(ge=0)] = 10.0
    every: int = Field(16, ge=1)

    @property
    def gradient_at(self) -> Place | None:
        own = type(self).penalty is R1.penalty  # Not that of a part from outside, which is more than the gradient's.
        return self.place if own and self.every == 1 else None

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def penalty(self, critic: Critic, fake: View, real: View, batch: GlobalBatch) -> Tensor:
        return self.of_gradient(gradient_of(critic, real if self.place == "real" else fake), batch)

    def of_gradient(self, gradient: Tensor, batch: GlobalBatch) -> Tensor:
        return self.every * now(self.weight, batch) / 2 * gradient.flatten(1).square().sum(1)
