"""Every recipe, and every task with every scheme and objective, is a program that XLA compiles as a whole."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch_xla.debug.metrics as counters

from pipelines.components import ConfigError, name_of
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.config import Run
from service.configuration.recipe import load
from service.configuration.recipe_texts import recipes
from service.replicas.accelerators import Accelerator
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.replicas.accelerators.xla import Xla
from service.runs.on_replica.replica import Replica
from tests.training.test_combinations import OBJECTIVES, SCHEMES, TASKS, TRANSLATIONS, data
from tests.training.test_recipes import with_small_data

__all__ = ["data"]


class Traced(Xla):
    """Notes what is asked for, and has nothing done: tracing takes a second, compiling a minute."""

    def finish(self) -> None:
        pass


def left_the_device() -> list[str]:
    """What torch_xla had to do on the host; a look at a value (``.item()``) is `aten::_local_scalar_dense`."""
    return [name for name in counters.counter_names() if name.startswith("aten::")]


def opened(run: Run, folders: Sequence[Location], accelerator: Accelerator) -> Replica:
    loaders = [open_loader(folder, run.data.transform, run.batch.size, run.seed) for folder in folders]
    return Replica(run, accelerator, *loaders)


def trace(run: Run, folders: Sequence[Location]) -> None:
    replica = opened(run, folders, Traced())
    counters.clear_all()
    for step in range(2):
        replica.step(step)
    replica.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Compiling takes up to a minute: a recipe of each family of networks, or with --every-recipe all of them."""
    if "compiled" in metafunc.fixturenames:
        of_each = {name_of(load(name).network): name for name in reversed(recipes())}
        del of_each["pggan"]  # That takes five.
        every = metafunc.config.getoption("--every-recipe", default=False)
        metafunc.parametrize("compiled", list(recipes()) if every else sorted(of_each.values()))


def test_a_recipe_runs_as_on_one_cpu(compiled: str, tmp_path: Path) -> None:
    """What traces may be refused by the compiler that shares it out. Later, Adam's first step has roundings decide."""
    run, folders = with_small_data(compiled, tmp_path)

    def first(accelerator: Accelerator) -> dict[str, float]:
        replica = opened(run, folders, accelerator)
        losses = {name: value.item() for name, value in replica.step(0).items()}
        replica.step(1)
        assert replica.diverged() is None
        replica.close()
        return losses

    found, expected = first(Xla()), first(TorchDistributed(torch.device("cpu")))
    apart = max(abs(found[name] - expected[name]) / max(1, abs(expected[name])) for name in expected)
    print(f"{compiled}: losses of the first step within {apart:.1e}")
    assert found.keys() == expected.keys() and apart < 1e-5


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
@pytest.mark.parametrize(
    "regularizer", ["gradient_penalty", "r1", "r2", "dragan", "spectral_norm", "instance_noise", "diff_augment", "ada"]
)
def test_regularizers_stay_on_the_device(regularizer: str, dtype: str, digits: Location) -> None:
    words = ["batch.size=8", "network.generator_channels=4", "network.critic_channels=4", f"dtype={dtype}", "ema={}"]
    trace(load("digits", [*words, f"regularizers={regularizer}", "network.critic_batch_norm=false"]), [digits])
    assert left_the_device() == []
