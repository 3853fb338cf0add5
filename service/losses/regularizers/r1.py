"""R1: the critic's gradient at real images (Mescheder et al. 2018, arXiv:1801.04406), lazily as in StyleGAN2."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from service.losses.regularizers import OfGradient, Place
from service.losses.schedules import Scheduled, now, within
from service.replicas.global_batch import GlobalBatch


class R1(OfGradient):
    """``weight / 2 |gradient|^2``, every so many steps and as many times as heavy (Karras et al. 2020: 16)."""

    place: ClassVar[Place] = "real"
    weight: Annotated[Scheduled, within(ge=0)] = 10.0
    every: int = Field(16, ge=1)

    @property
    def every_step(self) -> bool:
        return self.every == 1

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def of_gradient(self, gradient: Tensor, batch: GlobalBatch) -> Tensor:
        return self.every * now(self.weight, batch) / 2 * gradient.flatten(1).square().sum(1)
