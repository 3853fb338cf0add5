"""A step through the whole service, on Ray with MLflow, against loops without one, in the same process.

The run is a real one; between blocks of its steps the same process does blocks of the other loops: a bare one of its
networks, and the author's, if those are a DCGAN's. Options: ``recipes=self-dcgan-mnist,digits,self-gan-mnist``.
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
from service.models.networks import LatentNetwork
from service.models.networks.dcgan import DCGAN
from service.models.pixels import to_model
from service.runs.driver.fitting import fit
from service.runs.driver.preparation import started
from service.runs.job import Job
from service.runs.on_replica.loop import train
from service.runs.on_replica.outputs import RayOutputs
from service.runs.on_replica.worker import set_up
from service.tracking.progress import new_status

#: A block is as long as the logging interval, so that its work falls into every one.
BLOCK, BLOCKS = 50, 8
RECIPES = "self-dcgan-mnist,digits,self-gan-mnist"
#: Recipes of MNIST are fed with the bundled digits at its size: the same work, and nothing to download.
WORDS = ["data.source=digits", "logging.every=50", "logging.samples_every=1000", "checkpoints.every=1000"]


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

    assert isinstance(run.network, LatentNetwork)
    loops = {"bare loop": on(bare_loop(run.image, run.batch.size, network=run.network))}
    if isinstance(run.network, DCGAN):
        loops["author's loop"] = on(authors_loop(run.image, run.batch.size))
    outputs = RayOutputs(run, job, chief=True, start=0)
    interleaved = _Interleaved(outputs, loops)
    train(run, accelerator, replica, interleaved)
    outputs.close()
    return interleaved.seconds


def main(*words: str) -> None:
    options = {"recipes": RECIPES} | dict(word.split("=", 1) for word in words)
    for recipe in options["recipes"].split(","):
        _compare(recipe)


def _compare(recipe: str) -> None:
    with tempfile.TemporaryDirectory() as storage:
        words = [*WORDS, f"steps={BLOCK * BLOCKS + 1}", f"storage={storage}", "name=benchmark"]
        run = load(recipe, words)
        with started(run, Console(quiet=True), time.time()) as at:
            seconds = fit(at, _replica_main, new_status())
    ours, size = seconds["service"][2:], run.batch.size
    print(f"  {recipe}")
    for name, values in seconds.items():
        ratio = median(one / other for one, other in zip(ours, values[2:], strict=True))
        value = median(values[2:])
        print(f"    {name:<16}{value * 1e3:8.1f} ms a step{size / value:8.0f} images/s; service / it: {ratio:.3f}")
