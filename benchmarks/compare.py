"""Contenders trained on MNIST at equal steps, and how far what they generate is from its test images.

``python -m benchmarks.compare --steps 10000 gan-mnist "self-gan-mnist scheme.balance=validity"``: each contender
is a recipe and what overrides it. One process trains one after the other on one core; for each of the seeds it
prints the distance, so that what has been found is there when it is cut short, and at the end mean and spread.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
import time
from statistics import mean, stdev

import torch
from torch import Tensor

from benchmarks.digit_features import IMAGES, DigitDistance
from benchmarks.in_process import opened

#: The images that are judged are made of inputs that no training run draws.
EXAMPLES_SEED = 1


def generated(recipe: str, overrides: list[str], steps: int, storage: str) -> tuple[Tensor, float]:
    """Images of a generator after so many steps, and the CPU seconds they took."""
    with opened(recipe, [*overrides, f"steps={steps}"], storage) as replica:
        began = time.process_time()
        for step in range(steps):
            replica.step(step)
        return replica.generate(IMAGES, EXAMPLES_SEED), time.process_time() - began


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("contenders", nargs="+", metavar="'RECIPE KEY=VALUE ...'")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default="../shared/data/mnist", help="folder of MNIST's files")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    results: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as storage:
        for seed in range(chosen.seeds):
            for contender in chosen.contenders:
                recipe, *overrides = shlex.split(contender)
                words = [*overrides, f"data.source.uri={chosen.data}", f"seed={seed}"]
                images, seconds = generated(recipe, words, chosen.steps, storage)
                found = DigitDistance(chosen.data, images.shape[2])(images)
                results.setdefault(contender, []).append(found)
                print(f"{found:8.1f}  seed {seed}  {seconds:5.0f} s  {contender}", flush=True)
    print(f"\nclassifier-FID of {IMAGES:,} images after {chosen.steps:,} steps, {chosen.seeds} seeds")
    for contender, values in results.items():
        spread = f" +- {stdev(values):.1f}" if len(values) > 1 else ""
        print(f"{mean(values):8.1f}{spread}  {contender}")


if __name__ == "__main__":
    main()
