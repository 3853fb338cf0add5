"""Compiled passes that CUDA plays as graphs: the steps of plain ones, in fewer launches."""

from pathlib import Path

import pytest
import ray
import torch

from benchmarks.gpu import Variant, launches, of_replica
from pipelines.components import ConfigError
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.config import Run
from service.configuration.recipe import load
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.driver import cluster
from service.runs.on_replica.replica import Replica
from service.training.compiling import Compile
from tests.replicas.test_replicas import TINY, distance, weights
from tests.training.test_recipes import with_small_data

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device to record graphs on")


def opened(run: Run, sets: list[Location], graphs: bool, device: str) -> Replica:
    run = run.model_copy(update={"compile": Compile(graphs=True) if graphs else None})
    loaders = [open_loader(at, run.data.transform, run.batch.size, run.seed) for at in sets]
    return Replica(run, TorchDistributed(torch.device(device)), *loaders)


@pytest.mark.parametrize(
    ("words", "graphs"), [(["compile=true"], False), (["compile.graphs=true"], True), (["compile=false"], None)]
)
def test_graphs_are_asked_for_beside_compiling(words: list[str], graphs: bool | None) -> None:
    found = load("digits", words).compile
    assert (found and found.graphs) == graphs
    assert load("digits", words).recipe_hash == load("digits").recipe_hash


def test_replicas_on_cpus_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    with pytest.raises(ConfigError, match=r"compile\.graphs: graphs are CUDA's"):
        cluster.replicas(load("digits", ["compile.graphs=true", "cluster.accelerator=cpu"]))


@pytest.mark.long
def test_what_is_kept_of_a_step_is_a_copy(digits: Location) -> None:
    """As far as a CPU shows it, which is given the compiled code without its graphs."""
    run = load("digits", [*TINY[1:], "batch.size=24"])
    played, plain = (opened(run, [digits], graphs, "cpu") for graphs in (True, False))
    for step in range(4):
        played.step(step)
        plain.step(step)
    assert distance(weights(played), weights(plain)) < 1e-3


@cuda
@pytest.mark.parametrize("name", ["self-dcgan-mnist", "dcgan-mnist", "self-sngan-mnist", "self-r3gan-mnist"])
def test_steps_are_those_of_a_plain_run(name: str, tmp_path: Path) -> None:
    run, sets = with_small_data(name, tmp_path)
    played, plain = (
        opened(run.model_copy(update={"dtype": "float64"}), sets, graphs, "cuda") for graphs in (True, False)
    )
    for step in range(8):
        played.step(step)
        plain.step(step)
    assert distance(weights(played), weights(plain)) < 1e-8
    device = torch.device("cuda")
    started = [int(launches(device, of_replica(replica, Variant(), 8))) for replica in (played, plain)]
    assert started[0] < started[1] / 3
