"""What `batch.rows_at_once` saves and costs: peak memory and seconds a step, of a batch in 1, 2, 4 and 8 micro-batches.

Each has a process of its own on one thread. Memory is the most that the process has held, less what it held when the
networks and the data were there and no step was done yet. Seconds are the median of some steps after the first.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch

from benchmarks.in_process import opened

#: What, recipe, options, samples of the batch.
RUNS = [
    ("WGAN-GP, MNIST", "self-wgan-gp-mnist", ["data.source=digits"], 512),
    ("CycleGAN, 64 pixels", "self-cyclegan", ["data.source=digits", "data.domains=[{source: digits}]",
     "data.transform.size=64", "network.blocks=3", "network.channels=32"], 16),
    ("DCGAN, 64 pixels, no batch norm in the critic", "self-dcgan-bedroom", ["data.source=digits",
     "data.transform.size=64", "network.critic_batch_norm=false"], 128),
]  # fmt: skip
STEPS = 3


def main() -> None:
    for what, recipe, options, size in RUNS:
        print(f"  {what}, {size} samples")
        for parts in (1, 2, 4, 8):
            words = [*options, f"batch.size={size}", *([f"batch.rows_at_once={size // parts}"] if parts > 1 else [])]
            mebibytes, seconds = measured(recipe, words)
            print(f"    {size // parts:>4} rows at once: {mebibytes:7.0f} MiB, {seconds:6.2f} s a step", flush=True)


def measured(recipe: str, options: list[str]) -> tuple[float, float]:
    """Peak memory of the steps in MiB, and seconds of one."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_training, args=(there, recipe, options))
    process.start()
    found: tuple[float, float] = here.recv()
    process.join()
    return found


def _training(answer: Connection, recipe: str, options: list[str]) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as storage, opened(recipe, options, storage) as replica:
        Path("/proc/self/clear_refs").write_text("5")  # The peak so far, of the ingest, is forgotten.
        before = _kibibytes("VmRSS")
        taken = []
        for step in range(STEPS + 1):
            began = time.perf_counter()
            replica.step(step)
            taken.append(time.perf_counter() - began)
        peak = _kibibytes("VmHWM")
    answer.send(((peak - before) / 1024, median(taken[1:])))


def _kibibytes(name: str) -> int:
    """What Linux says of this process under that name."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])
