"""Every recipe, and every task with every scheme and objective, is a program that XLA compiles as a whole."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch_xla.debug.metrics as counters

from pipelines.loader import open_loader
from pipelines.storage import Location
from service.accelerators.xla import Xla
from service.components import ConfigError
from service.config import Run
from service.recipe import load, recipes
from service.replica import Replica
from tests.test_combinations import OBJECTIVES, SCHEMES, TASKS, TRANSLATIONS, data
from tests.test_recipes import with_small_data

__all__ = ["data"]


class Traced(Xla):
    """Notes what is asked for, and has nothing done: tracing takes a second, compiling a minute."""

    def finish(self) -> None:
        pass


def left_the_device() -> list[str]:
    """What torch_xla had to do on the host; a look at a value (``.item()``) is `aten::_local_scalar_dense`."""
    return [name for name in counters.counter_names() if name.startswith("aten::")]


def trace(run: Run, folders: Sequence[Location]) -> None:
    loaders = [open_loader(folder, run.data.transform, run.batch.size, run.seed) for folder in folders]
    replica = Replica(run, Traced(), *loaders)
    counters.clear_all()
    for step in range(2):
        replica.step(step)
    replica.close()


@pytest.mark.parametrize("name", list(recipes()))
def test_a_recipe_stays_on_the_device(name: str, tmp_path: Path) -> None:
    trace(*with_small_data(name, tmp_path))
    assert left_the_device() == []


@pytest.mark.parametrize("task", list(TASKS))
def test_every_combination_stays_on_the_device(task: str, data: dict[str, Location]) -> None:
    words = ["batch.size=8", "network.generator_channels=4", "network.critic_channels=4", "network.latent_dim=4"]
    words = ["data.transform.size=32", words[0]] if task in TRANSLATIONS else ["data.transform.size=16", *words]
    traced = 0
    for scheme in SCHEMES:
        for objective in OBJECTIVES:
            options = [*words, *TASKS[task], *SCHEMES[scheme], f"objective={objective}"]
            options = [word.replace("critic_batch: 3", "critic_batch: 4") for word in options]
            try:
                run = load("digits", options)
            except ConfigError:  # Which cannot be, is tests/test_combinations.py's matter.
                continue
            trace(run, [data[task]] * run.task.data_sets)
            assert left_the_device() == [], f"{scheme}, {objective}"
            traced += 1
    print(f"{task}: {traced} combinations")
    assert traced >= 40


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("regularizer", ["gradient_penalty", "r1", "dragan", "spectral_norm", "instance_noise"])
def test_regularizers_stay_on_the_device(regularizer: str, dtype: str, digits: Location) -> None:
    words = ["batch.size=8", "network.generator_channels=4", "network.critic_channels=4", f"dtype={dtype}", "ema={}"]
    trace(load("digits", [*words, f"regularizers={regularizer}", "network.critic_batch_norm=false"]), [digits])
    assert left_the_device() == []
