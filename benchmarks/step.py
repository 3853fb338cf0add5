"""A step through the whole service, on Ray with MLflow, against loops without one, in the same process.

The run is a real one; between blocks of its steps the same process does blocks of the other loops.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.loops import authors_loop, bare_loop
from service.configuration.recipe import load
from service.models.pixels import to_model
from service.runs.driver.fitting import fit
from service.runs.driver.preparation import started
from service.runs.on_replica.job import Job
from service.runs.on_replica.loop import train
from service.runs.on_replica.outputs import RayOutputs
from service.runs.on_replica.worker import set_up
from service.tracking.progress import new_status

BLOCK, BLOCKS = 10, 14
#: MNIST's DCGAN, fed with the bundled digits at MNIST's size: the same work, and nothing to download.
WORDS = ["data.source=digits", "logging.every=10", "logging.samples_every=1000", "checkpoints.every=1000"]


class _Interleaved:
    """A run's outputs, which do a block of every other loop after each block of the run's steps."""

    def __init__(self, outputs: RayOutputs, loops: Mapping[str, Callable[[], None]]) -> None:
        self._outputs, self._loops = outputs, loops
        self.seconds: dict[str, list[float]] = {name: [] for name in ("service", *loops)}
        self._began = time.perf_counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outputs, name)

    def progress(self, step: int) -> None:
        self._outputs.progress(step)
        # A block ends one step after a logging step, so that the work of logging falls into it.
        if step % BLOCK != 1 or step == 1:
            return
        self.seconds["service"].append((time.perf_counter() - self._began) / BLOCK)
        for name, loop in self._loops.items():
            began = time.perf_counter()
            for _ in range(BLOCK):
                loop()
            self.seconds[name].append((time.perf_counter() - began) / BLOCK)
        self._began = time.perf_counter()


def _replica_main(job: Job) -> dict[str, list[float]]:
    run, accelerator, replica = set_up(job)
    real = to_model(replica.real_images(run.batch.size), torch.float32)

    def on(step: Callable[[Tensor], None]) -> Callable[[], None]:
        return lambda: step(real)

    loops = {
        "bare loop": on(bare_loop(run.image, run.batch.size)),
        "author's loop": on(authors_loop(run.image, run.batch.size)),
    }
    outputs = RayOutputs(run, job, chief=True, start=0)
    interleaved = _Interleaved(outputs, loops)
    train(run, accelerator, replica, interleaved)
    outputs.close()
    return interleaved.seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as storage:
        words = [*WORDS, f"steps={BLOCK * BLOCKS + 1}", f"storage={storage}", "name=benchmark"]
        run = load("self-dcgan-mnist", words)
        with started(run, Console(quiet=True), time.time()) as at:
            seconds = fit(at, _replica_main, new_status())
    size = 64
    middle = {name: median(values[2:]) for name, values in seconds.items()}
    for name, value in middle.items():
        print(f"  {name:<16}{value * 1e3:8.1f} ms a step{size / value:8.0f} images/s")
    ratios = [ours / theirs for ours, theirs in zip(seconds["service"][2:], seconds["bare loop"][2:], strict=True)]
    print(f"  service / bare loop: {median(ratios):.3f} (goal: at most 1.05)")
    faster = [theirs / ours for ours, theirs in zip(seconds["service"][2:], seconds["author's loop"][2:], strict=True)]
    print(f"  author's loop / service: {median(faster):.2f}")
