"""The gradient penalty of WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028; igul222/improved_wgan_training)."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from service.losses.regularizers import Critic, Regularizer, gradient_of, per_sample
from service.losses.schedules import Scheduled, now, within
from service.replicas.global_batch import GlobalBatch
from service.tasks import View


class GradientPenalty(Regularizer):
    """``weight (|gradient| - 1)^2`` at a point between each real image and a generated one."""

    weight: Annotated[Scheduled, within(ge=0)] = 10.0

    def penalty(self, critic: Critic, fake: View, real: View, batch: GlobalBatch) -> Tensor:
        share = per_sample(batch.uniform("gradient penalty", 1), real.images)
        between = real._replace(images=real.images + share * (fake.images - real.images))
        norms: Tensor = gradient_of(critic, between).flatten(1).norm(dim=1)
        return (norms - 1).square() * now(self.weight, batch)
