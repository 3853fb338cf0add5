"""What exact replicas cost: a step with ``exact=true`` against one without, of the same run on one replica.

Each has a process of its own, as exact replicas set MKL up in another way; they take turns, a block of steps each.
The figure is the ratio of the medians.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from statistics import median

import torch

from benchmarks.in_process import opened

#: What, recipe, options, and steps of a block.
RUNS = [
    ("DCGAN, MNIST", "self-dcgan-mnist", [], 5),
    ("DCGAN, 64 pixels", "self-dcgan-bedroom", ["data.transform.size=64"], 1),
    ("WGAN-GP, MNIST", "self-wgan-gp-mnist", [], 2),
    ("MLP, MNIST", "self-gan-mnist", [], 20),
]
BLOCKS = 9


def main() -> None:
    for threads in (1, 2):
        for what, recipe, options, steps in RUNS:
            plain, exact = seconds(recipe, ["data.source=digits", *options], steps, threads)
            print(
                f"  {what:<17} {threads} threads: {1e3 * plain:7.1f} ms a step, exact {1e3 * exact:7.1f} ms, "
                f"{exact / plain:.2f} times",
                flush=True,
            )


def seconds(recipe: str, options: list[str], steps: int, threads: int) -> list[float]:
    """Of a step, without and with ``exact=true``."""
    context = multiprocessing.get_context("spawn")
    ends: list[Connection] = []
    for exact in ("false", "true"):
        here, there = context.Pipe()
        words = [*options, f"exact={exact}"]
        context.Process(target=_stepping, args=(there, recipe, words, steps, threads), daemon=True).start()
        ends.append(here)
    found: list[list[float]] = [[], []]
    for _ in range(BLOCKS + 2):
        for end, taken in zip(ends, found, strict=True):
            end.send(True)
            taken.append(end.recv())
    for end in ends:
        end.send(False)
    return [median(taken[2:]) for taken in found]  # The first blocks set up.


def _stepping(orders: Connection, recipe: str, options: list[str], steps: int, threads: int) -> None:
    """Takes a block of steps each time that it is told to, and tells how long one of them took."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as storage, opened(recipe, options, storage) as replica:
        done = 0
        while orders.recv():
            began = time.perf_counter()
            for number in range(done, done + steps):
                replica.step(number)
            orders.send((time.perf_counter() - began) / steps)
            done += steps
