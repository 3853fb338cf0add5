"""The moving average of a generator's weights, which makes better images than any of them (Yazici et al. 2018)."""

from __future__ import annotations

import copy

import torch
from pydantic import Field
from torch import nn

from pipelines.components import Options
from service.replicas.global_batch import GlobalBatch


class Ema(Options):
    """How fast the average follows.

    Defaults are PGGAN's, per step. With `half_life_images` and `ramp_up` the decay is StyleGAN2's: a half-life in
    images, at first no longer than that share of what has been seen. Before `start` the average is the generator
    (BigGAN: 20,000 steps and a decay of 0.9999).
    """

    decay: float = Field(0.999, ge=0, lt=1)
    start: int = Field(0, ge=0)
    half_life_images: float | None = Field(None, gt=0)
    ramp_up: float = Field(0.05, gt=0)

    def decay_at(self, step: int, batch_size: int) -> float:
        """What the average keeps of itself after `step` more steps than none."""
        if step < self.start:
            return 0.0
        if self.half_life_images is None:
            return self.decay
        half_life = min(self.half_life_images, (step + 1) * batch_size * self.ramp_up)
        return float(0.5 ** (batch_size / max(half_life, 1e-8)))


class Average:
    """A generator's average: a network of its own, in evaluation mode."""

    def __init__(self, options: Ema, generator: nn.Module, batch: GlobalBatch) -> None:
        self._options, self._generator, self._batch_size = options, generator, batch.size
        # Its layers follow the same batch.
        self.network = copy.deepcopy(generator, {id(batch): batch}).requires_grad_(False)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take what the generator is after `step`. Running statistics are copied: they are averages already."""
        share = 1 - self._options.decay_at(step, self._batch_size)
        torch._foreach_lerp_(list(self.network.parameters()), list(self._generator.parameters()), share)
        for mine, theirs in zip(self.network.buffers(), self._generator.buffers(), strict=True):
            mine.copy_(theirs)
