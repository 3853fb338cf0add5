"""The moving average of a generator's weights, which makes better images than any of them (Yazici et al. 2018)."""

from __future__ import annotations

import copy
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from pipelines.components import Options
from service.losses.schedules import Cosine, Scheduled, within
from service.replicas.global_batch import GlobalBatch


class Ema(Options):
    """How fast the average follows.

    Defaults are PGGAN's, per step. With `half_life_images` and `ramp_up` the decay is StyleGAN2's: a half-life in
    images, at first no longer than that share of what has been seen. Before `start` the average is the generator
    (BigGAN: 20,000 steps and a decay of 0.9999). A half-life with a schedule, as R3GAN has it, has no ramp.
    """

    decay: float = Field(0.999, ge=0, lt=1)
    start: int = Field(0, ge=0)
    half_life_images: Annotated[Scheduled | None, within(gt=0, ends={"ge": 0}, optional=True)] = None
    ramp_up: float = Field(0.05, gt=0)

    def decay_at(self, step: Tensor, batch_size: int) -> Tensor | float:
        """What the average keeps of itself after `step` more steps than none; on the device where it changes."""
        decay: Tensor | float = self.decay
        if isinstance(self.half_life_images, Cosine):
            decay = 0.5 ** (batch_size / self.half_life_images.on_device(step, batch_size).clamp_min(1e-8))
        elif self.half_life_images is not None:
            seen = (step.to(torch.float64) + 1) * batch_size
            decay = 0.5 ** (batch_size / (seen * self.ramp_up).clamp(1e-8, self.half_life_images))
        return (step >= self.start).to(torch.float64) * decay if self.start else decay


class Average:
    """A generator's average: a network of its own, in evaluation mode."""

    def __init__(self, options: Ema, generator: nn.Module, batch: GlobalBatch) -> None:
        self._options, self._generator, self._batch = options, generator, batch
        # Its layers follow the same batch.
        self.network = copy.deepcopy(generator, {id(batch): batch}).requires_grad_(False)

    @torch.no_grad()
    def follow(self) -> None:
        """Take what the generator is after a step. Running statistics are copied: they are averages already."""
        mine: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(self._generator.parameters())
        share = 1 - self._options.decay_at(self._batch.step, self._batch.size)
        if isinstance(share, Tensor):
            torch._foreach_lerp_(mine, theirs, [share.to(one.dtype) for one in mine])
        else:
            torch._foreach_lerp_(mine, theirs, share)
        for own, other in zip(self.network.buffers(), self._generator.buffers(), strict=True):
            own.copy_(other)
