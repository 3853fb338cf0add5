"""Adaptive augmentation: critics see images changed, with a probability that follows how much they overfit.

Karras et al. 2020, arXiv:2006.06676. A critic that takes nearly all real images for real has begun to learn them by
heart: its verdicts on images that it has not seen would be others. Then more images are changed; and fewer, if not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from pipelines.components import name_of
from service.losses.objectives import Objective, Scores
from service.losses.regularizers import Regularizer
from service.losses.schedules import Cosine, Scheduled, first, within
from service.models.adaptive_augmentation import AdaptiveAugmentation
from service.models.critic_augmentation import AugmentedCritic
from service.replicas.global_layers import KeyedAugmentation


class Ada(Regularizer):
    """Each critic has a probability of its own, from the signs of its logits of the whole batch's real images.

    It is the metric ``augmentation/CRITIC``, and continues in checkpoints.
    """

    #: What the mean sign of a critic's logits of real images, the paper's r_t, is held to; none, and the probability
    #: stays as it is, or follows its schedule.
    target: float | None = Field(0.6, gt=-1, lt=1)
    #: Batches of real images between two changes of the probability.
    every: int = Field(4, ge=1)
    #: Images in which the probability goes from 0 to 1; the authors take 100,000 when they start from a checkpoint.
    images: int = Field(500_000, ge=1)
    #: The probability at first or, without a target, always.
    probability: Annotated[Scheduled, within(ge=0, le=1)] = 0.0
    #: What the probability is multiplied by for mirroring, quarter turns, and moves by whole pixels.
    blit: float = Field(1.0, ge=0, le=1)
    #: For scales, turns, and moves by less than a pixel.
    geometry: float = Field(1.0, ge=0, le=1)
    #: For brightness and contrast and, with three channels, for hue and saturation.
    colour: float = Field(1.0, ge=0, le=1)
    #: For a grey square; StyleGAN2's authors take 0.
    cutout: float = Field(1.0, ge=0, le=1)

    def check(self, objective: Objective) -> None:
        if self.target is None:
            return
        if isinstance(self.probability, Cosine):
            raise ValueError(
                "regularizers ada: its probability either has a schedule, or follows a target; set target to null, or "
                "probability to a number"
            )
        if objective.verdicts(torch.zeros(1, 1, 1)) is None:
            raise ValueError(
                f"regularizers ada: logits of objective {name_of(objective)} do not say whether an image is taken for "
                "real; set target to null and a probability, or choose another objective"
            )

    def prepare(self, critics: nn.ModuleDict) -> None:
        for game, critic in critics.items():
            augmentation = AdaptiveAugmentation(
                self.blit, self.geometry, self.colour, self.cutout, first(self.probability)
            )
            critics[game] = AugmentedCritic(augmentation, critic)

    def see_real(self, critic: nn.Module, scores: Scores, objective: Objective) -> None:
        if self.target is None:
            return
        verdicts = objective.verdicts(scores.logits.detach())
        assert verdicts is not None, "refused"
        for augmentation in _of(critic):
            augmentation.see(verdicts)

    def mend(self, critics: nn.ModuleDict) -> None:
        # Not where verdicts are seen: compiled code may look at the probability again for the gradient.
        for layer in critics.modules():
            if not (isinstance(layer, KeyedAugmentation) and isinstance(layer.plain, AdaptiveAugmentation)):
                continue
            if isinstance(self.probability, Cosine):
                scheduled = self.probability.on_device(layer.batch.step, layer.batch.whole_size)
                layer.plain.probability.copy_(scheduled)
            elif self.target is not None:
                layer.plain.adapt(self.target, self.every, self.images)

    def metrics(self, critics: nn.ModuleDict) -> dict[str, Tensor]:
        return {
            f"augmentation/{game}": augmentation.probability.clone()
            for game, critic in critics.items()
            for augmentation in _of(critic)
        }


def _of(critics: nn.Module) -> Iterator[AdaptiveAugmentation]:
    return (module for module in critics.modules() if isinstance(module, AdaptiveAugmentation))
