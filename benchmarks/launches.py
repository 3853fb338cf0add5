"""What one step asks of its device: operations by part of the step, and collectives.

On a GPU each operation is at least one launch. The numbers do not depend on the machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.in_process import opened
from benchmarks.loops import authors_loop, bare_loop
from benchmarks.operations import PARTS, Counting
from service.models.networks import ImageShape
from tests.processes import run_replicas

RECIPES = "self-dcgan-mnist", "dcgan-mnist", "wgan-gp-mnist", "self-gan-mnist", "gan-mnist", "digits"
_IMAGE, _SIZE = ImageShape(1, 32, 32), 64
#: The first steps say what later ones draw, and make what an optimizer keeps.
_BEFORE = 3
_SMALL = 4096


def of_recipe(recipe: str, *words: str, storage: str) -> Counting:
    """One step of a recipe, fed with the bundled digits."""
    with opened(recipe, ["data.source=digits", *words], storage) as replica:
        for step in range(_BEFORE):
            replica.step(step)
        with Counting(replica.generator, replica.critics) as counted:
            replica.step(_BEFORE)
    return counted


def on_replicas(rank: int, world_size: int, storage: str) -> dict[str, tuple[int, list[int]]]:
    """For every recipe the operations of one replica, and the bytes of each collective, in the fast and exact mode."""
    found = {}
    for recipe in RECIPES:
        for mode, words in {"": [], ", exact": ["exact=true"]}.items():
            counted = of_recipe(recipe, *words, storage=storage)
            found[recipe + mode] = counted.operations, [size for _, size in counted.collectives]
    return found


def of_loop(step: Callable[[Tensor], None]) -> Counting:
    """One step of a loop without a service."""
    real = torch.zeros(_SIZE, *_IMAGE)
    for _ in range(_BEFORE):
        step(real)
    with Counting() as counted:
        step(real)
    return counted


def main() -> None:
    print(f"  {'':<26}{'all':>7}{'forward':>9}{'backward':>9} |" + "".join(f"{part:>11}" for part in PARTS))
    with tempfile.TemporaryDirectory() as storage:
        for recipe in RECIPES:
            _print(recipe, of_recipe(recipe, storage=storage))
        _print("bare loop, DCGAN", of_loop(bare_loop(_IMAGE, _SIZE)))
        # On a GPU, torch's Adam is foreach by default.
        _print("author's loop, DCGAN", of_loop(authors_loop(_IMAGE, _SIZE, foreach=True)))
        print("  on 2 replicas:")
        for name, (operations, sizes) in run_replicas(2, on_replicas, storage).items():
            print(
                f"  {name:<26}{operations:>7} operations, {len(sizes)} collectives: "
                f"{sum(size < _SMALL for size in sizes)} of less than {_SMALL:,} bytes, {sum(sizes):,} bytes in all"
            )


def _print(name: str, counted: Counting) -> None:
    of_directions = [sum(counted.of(part, direction) for part in PARTS) for direction in ("forward", "backward")]
    print(
        f"  {name:<26}{counted.operations:>7}{of_directions[0]:>9}{of_directions[1]:>9} |"
        + "".join(f"{counted.of(part):>11}" for part in PARTS)
    )
