"""The loop of one replica: batch, step, log, sample, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from service.accelerators import Accelerator, Pending
from service.checkpoints import State
from service.config import Run
from service.divergence import Diverged, first_divergence
from service.monitors import Monitor
from service.quality import sliced_wasserstein
from service.replica import Replica

SAMPLE_SEED = 0
_BAD_STEP = "bad step/"


class Outputs(Protocol):
    """Where the loop sends what it makes. Called on every replica unless a method says otherwise."""

    def progress(self, step: int) -> None:
        """`step` steps are done. Rank 0 only."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """What was measured at `step`. Rank 0 only."""

    def warn(self, text: str) -> None:
        """Something looks wrong. Rank 0 only."""

    def samples(self, step: int, images: Tensor) -> None:
        """Images (N, C, H, W), uint8, of fixed inputs. Rank 0 only."""

    def checkpoint(self, state: State, score: float | None) -> None:
        """Keep `state`. The score, lower is better, is rank 0's to give."""


def train(run: Run, accelerator: Accelerator, replica: Replica, outputs: Outputs, start: int = 0) -> Diverged | None:
    """Train from step `start` to the end of the run.

    Values that were logged are fetched while the next steps run, and read at the next logging step: every
    replica learns of a divergence at the same step, and none waits for its device.

    Returns:
        Where the run diverged, if it did: it ends there, the same on every replica.
    """
    chief = accelerator.rank == 0
    makes_images = chief or accelerator.in_step
    log = _Log(run, accelerator, replica, outputs)
    for step in range(start, run.steps):
        values = replica.step(step)
        done = step + 1
        if chief:
            outputs.progress(done)
        if done % run.logging.every == 0 or done == run.steps:
            diverged = log.exchange(done, values)
            if diverged:
                return diverged
        if makes_images and (done % run.logging.samples_every == 0 or done == run.steps):
            images = replica.generate(run.logging.samples, SAMPLE_SEED, shown=True)
            if chief:
                outputs.samples(done, images)
        if done % run.checkpoints.every == 0 or done == run.steps:
            diverged = log.flush() or replica.verdict()
            if diverged:
                return diverged
            score = _score(run, replica) if makes_images else None
            outputs.checkpoint(replica.state(done), score)
    return None


def _score(run: Run, replica: Replica) -> float:
    real = replica.real_images(run.checkpoints.score_images)
    generated = replica.generate(len(real), SAMPLE_SEED)
    count = min(len(real), len(generated))  # Another domain may have fewer images to make them of.
    return sliced_wasserstein(generated[:count], real[:count])


class _Log:
    """Fetches values at one logging step, and hands them on at the next."""

    def __init__(self, run: Run, accelerator: Accelerator, replica: Replica, outputs: Outputs) -> None:
        self._run, self._accelerator, self._replica, self._outputs = run, accelerator, replica, outputs
        self._monitor = Monitor()
        self._pending: tuple[int, Pending] | None = None
        self._speed: dict[str, float] = {}
        self._last: tuple[int, float, float] | None = None

    def exchange(self, step: int, values: Mapping[str, Tensor]) -> Diverged | None:
        """Hand on the values before; start to fetch these."""
        diverged = self.flush()
        watched = {f"{_BAD_STEP}{term}": first for term, first in self._replica.divergence().items()}
        self._measure(step)
        everything = {**values, "diversity": self._replica.diversity(), **watched}
        self._pending = (step, self._accelerator.fetch(everything))
        return diverged

    def flush(self) -> Diverged | None:
        """Hand on what was fetched; returns a divergence that it shows."""
        if self._pending is None:
            return None
        step, pending = self._pending
        self._pending = None
        values = pending.get()
        bad = {name.removeprefix(_BAD_STEP): values.pop(name) for name in list(values) if name.startswith(_BAD_STEP)}
        diverged = first_divergence(bad)
        if diverged is None and self._accelerator.rank == 0:
            self._hand_on(step, values)
        return diverged

    def _measure(self, step: int) -> None:
        now, waited = time.perf_counter(), self._replica.waited_seconds
        if self._last is not None:
            steps = step - self._last[0]
            seconds = (now - self._last[1]) / steps
            self._speed = {
                "seconds_per_step": seconds,
                "images_per_second": self._run.batch.size / seconds,
                "data_wait_seconds_per_step": (waited - self._last[2]) / steps,
            }
        self._last = (step, now, waited)

    def _hand_on(self, step: int, values: Mapping[str, float]) -> None:
        self._outputs.metrics(step, {**values, **self._speed})
        for warning in self._monitor.look(values):
            self._outputs.warn(f"step {step}: {warning}")
