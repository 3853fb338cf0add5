"""Contenders trained on MNIST at equal steps or equal cost, and how far what they generate is from its test images.

``python -m benchmarks.compare --steps 10000 gan-mnist "self-gan-mnist scheme.balance=validity"``: each contender
is a recipe and what overrides it. ``--seconds 120`` gives each as many CPU seconds of training, instead of as many
steps. One process trains one after the other on one core. It looks at every mark, and prints the distance at once. At
the end, or when Ctrl-C cuts it short, it prints the mean, the spread, and by how much a contender is ahead of the first
one: the mean of the differences at the same seeds, with its 95 % interval (Student's).

``--data own`` leaves contenders the data of their recipes, which must be the same, and measures the distance to these.

``--rates 1e-4,4e-4,1.6e-3`` trains each contender with every pair of these learning rates, the generator's and the
critic's, and prints what a contender makes of them: the median over all pairs, and at how many it is ahead.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import product
from math import sqrt
from pathlib import Path
from statistics import mean, median, stdev
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from benchmarks.digit_features import IMAGES, DigitDistance
from benchmarks.in_process import opened
from benchmarks.own_distance import OwnDistance
from service.configuration.recipe import load
from service.runs.on_replica.replica import Replica
from service.tracking.sample_grids import grid

#: The images that are judged are made of inputs that no training run draws.
EXAMPLES_SEED = 1
#: As many as the SelfGAN paper's figures show.
SHOWN = 25


class Look(NamedTuple):
    """What a contender generates after so many steps, which took so many CPU seconds."""

    steps: int
    seconds: float
    images: Tensor


def looks(replica: Replica, marks: Sequence[int], in_seconds: bool) -> Iterator[Look]:
    """Trains up to the last of these rising marks, steps or CPU seconds of steps, and looks at each."""
    steps, seconds = 0, 0.0
    for mark in marks:
        while (seconds if in_seconds else steps) < mark:
            began = time.process_time()
            replica.step(steps)
            seconds += time.process_time() - began
            steps += 1
        yield Look(steps, seconds, replica.generate(IMAGES, EXAMPLES_SEED))


def lead(first: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """The mean of first - other over two pairs or more, and the half width of its 95 % interval."""
    differences = [one - two for one, two in zip(first, other, strict=True)]
    count = len(differences)
    return mean(differences), float(stats.t.ppf(0.975, count - 1)) * stdev(differences) / sqrt(count)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("contenders", nargs="+", metavar="'RECIPE KEY=VALUE ...'")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=_marks, default=[10_000], help="where to look, such as 2000,20000")
    length.add_argument("--seconds", type=_marks, help="likewise, in CPU seconds of training")
    parser.add_argument("--rates", type=_rates, default=[], help="learning rates, of which every pair is tried")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default="../shared/data/mnist", help="folder of MNIST's files, or own")
    parser.add_argument("--grids", type=Path, help=f"folder for pictures of {SHOWN} samples, one a look at seed 0")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    marks, in_seconds = sorted(chosen.seconds or chosen.steps), bool(chosen.seconds)
    results: dict[tuple[int, str], list[float]] = {(mark, one): [] for mark in marks for one in chosen.contenders}
    data = [] if chosen.data == "own" else [f"data.source.uri={chosen.data}"]
    with tempfile.TemporaryDirectory() as storage, suppress(KeyboardInterrupt):
        distance = _distance(chosen.data, chosen.contenders, storage)
        for seed, rates in product(range(chosen.seeds), _pairs(chosen.rates)):
            for place, contender in enumerate(chosen.contenders):
                words = [*data, f"seed={seed}", *rates]
                if not in_seconds:
                    words.append(f"steps={marks[-1]}")
                for mark, look in _trained(contender, words, marks, in_seconds, storage):
                    away = distance(look.images)
                    results[mark, contender].append(away)
                    at = "  ".join([f"seed {seed}  {look.steps:6,} steps  {look.seconds:5.0f} s", *rates])
                    print(f"{away:8.1f}  {at}  {contender}", flush=True)
                    if chosen.grids and seed == 0 and not rates:
                        chosen.grids.mkdir(parents=True, exist_ok=True)
                        grid(look.images[:SHOWN]).save(chosen.grids / f"{place}-{mark}.png")
    runs, line = min(map(len, results.values())), _line_of_rates if chosen.rates else _line
    for mark in marks if runs else []:
        unit = "CPU seconds" if in_seconds else "steps"
        print(f"\nclassifier-FID of {IMAGES:,} images after {mark:,} {unit}, {runs} runs each")
        found = [results[mark, contender][:runs] for contender in chosen.contenders]
        for values, contender in zip(found, chosen.contenders, strict=True):
            print(line(values, found[0], contender))


def _distance(data: str, contenders: Sequence[str], storage: str) -> Callable[[Tensor], float]:
    """Of images from MNIST's at the same size, or from the contenders' own data."""
    if data == "own":
        given = [shlex.split(contender) for contender in contenders]
        first, *others = [load(recipe, [*words, f"storage={storage}"]) for recipe, *words in given]
        if any(other.data != first.data for other in others):
            raise SystemExit("--data own: contenders' recipes have different data; give all of them the same")
        return OwnDistance(first)
    at_size = cache(partial(DigitDistance, data))
    return lambda images: at_size(images.shape[2])(images)


def _pairs(rates: Sequence[float]) -> list[list[str]]:
    """The options of every pair of a generator's and a critic's rate; the recipe's own if there are no rates."""
    return [
        [f"optimizer.learning_rate={generator:g}", f"optimizer.critic_learning_rate={critic:g}"]
        for generator, critic in product(rates, repeat=2)
    ] or [[]]


def _trained(
    contender: str, words: list[str], marks: list[int], in_seconds: bool, storage: str
) -> Iterator[tuple[int, Look]]:
    recipe, *overrides = shlex.split(contender)
    with opened(recipe, [*overrides, *words], storage) as replica:
        yield from zip(marks, looks(replica, marks, in_seconds), strict=True)


def _line(values: list[float], first: list[float], contender: str) -> str:
    spread = f" +- {stdev(values):.1f}" if len(values) > 1 else ""
    text = f"{mean(values):8.1f}{spread}"
    if values is not first and len(values) > 1:
        ahead, width = lead(first, values)
        text += f"  ahead by {ahead:+.1f} ({ahead - width:+.1f} to {ahead + width:+.1f})"
    return f"{text}  {contender}"


def _line_of_rates(values: list[float], first: list[float], contender: str) -> str:
    ahead = sum(one > own for one, own in zip(first, values, strict=True))
    text = f"{median(values):8.1f} in the median, {min(values):.1f} to {max(values):.1f}"
    return f"{text}{'' if values is first else f', ahead at {ahead} of {len(values)}'}  {contender}"


def _rates(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def _marks(text: str) -> list[int]:
    marks = [int(word) for word in text.split(",")]
    if min(marks) < 1:
        raise argparse.ArgumentTypeError(f"{text}: marks begin at 1")
    return marks


if __name__ == "__main__":
    main()
