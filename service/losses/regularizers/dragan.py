"""DRAGAN's gradient penalty, near real images (Kodali et al. 2017, arXiv:1705.07215; kodalinaveen3/DRAGAN)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from service.losses.regularizers import Critic, Regularizer, gradient_of, per_sample
from service.losses.schedules import Scheduled, now, within
from service.replicas.global_batch import GlobalBatch
from service.tasks import View


class DRAGAN(Regularizer):
    """``weight (|gradient| - 1)^2`` at disturbed real images.

    The author's code (``uniform``) goes some of the way to ``x + scale std(x) U(0, 1)``, where std is the whole
    batch's; the paper (``normal``) stands at ``x + N(0, scale^2)``.
    """

    weight: Annotated[Scheduled, within(ge=0)] = 10.0
    noise: Literal["uniform", "normal"] = "uniform"
    scale: float = Field(0.5, gt=0)

    def penalty(self, critic: Critic, fake: View, real: View, batch: GlobalBatch) -> Tensor:
        images, pixels = real.images, real.images.shape[1:].numel()
        if self.noise == "normal":
            disturbed = images + self.scale * batch.normal("dragan", pixels).view_as(images)
        else:
            share = per_sample(batch.uniform("dragan share", 1), images)
            noise = batch.uniform("dragan", pixels).view_as(images).to(images.dtype)
            disturbed = images + share * self.scale * _deviation(images, batch) * noise
        norms: Tensor = gradient_of(critic, real._replace(images=disturbed)).flatten(1).norm(dim=1)
        return (norms - 1).square() * now(self.weight, batch)


def _deviation(images: Tensor, batch: GlobalBatch) -> Tensor:
    """The standard deviation of all pixels of the batch, for each image that of its shard: (N or 1, 1, 1, 1)."""
    pixels = images.flatten(1)
    sums = torch.stack([pixels.sum(1), pixels.square().sum(1)], 1)
    first, second = batch.group_means(sums, images.shape[1:].numel()).unbind(1)
    deviation = (second - first.square()).clamp_min(0).sqrt()
    return per_sample(batch.per_row(deviation[:, None]), images)
