"""Metrics on their way from the device: fetched at one logging step, handed on at the next."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from service.artifacts.checkpoints import State
from service.configuration.config import Run
from service.replicas.accelerators import Accelerator, Pending
from service.runs.on_replica.agreement import Wish
from service.runs.on_replica.replica import Replica
from service.training.health.divergence import Diverged, first_divergence
from service.training.health.warnings import Monitor

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

    def wish(self, step: int) -> Wish:
        """What is to be done at the end of this step, the same on every replica."""


class MetricLog:
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
        watched = {f"{_BAD_STEP}{term}": first for term, first in self._replica.first_bad_steps().items()}
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
