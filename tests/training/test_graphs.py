"""Compiled passes that CUDA plays as graphs: the steps of plain ones, in fewer launches."""

from pathlib import Path

import pytest
import ray
import torch
from torch import Tensor, nn

from benchmarks.gpu import Variant, launches, of_replica
from pipelines.components import ConfigError
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.config import Run
from service.configuration.recipe import load
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.driver import cluster
from service.runs.on_replica.replica import Replica
from service.training.compiling import Compile, Played
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


class _Graph(nn.Module):
    """Writes into the same memory at every call, as a graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = torch.zeros(3)

    def forward(self, weight: Tensor, value: float) -> tuple[Tensor, dict[str, Tensor]]:
        return weight * value, {"images": self.memory.fill_(value)}


def test_what_is_kept_of_a_call_is_not_overwritten_by_the_next() -> None:
    played, weight = Played(_Graph()), torch.ones((), requires_grad=True)
    loss, kept = played(weight, 2.0)
    played(weight, 5.0)
    assert kept["images"].tolist() == [2.0, 2.0, 2.0]
    loss.backward()
    assert weight.grad == 2.0


@pytest.mark.long
def test_played_code_does_what_a_plain_step_does(digits: Location) -> None:
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
