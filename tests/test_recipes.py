"""Every recipe trains: its networks, scheme and balance at their real size, on the bundled digits for data."""

import math
from pathlib import Path

import pytest
import torch

from pipelines.ingest import ingest
from pipelines.loader import open_loader
from pipelines.sources.digits import Digits
from pipelines.storage import Location
from service.accelerators.torch_distributed import TorchDistributed
from service.recipe import load, recipes
from service.replica import Replica


@pytest.mark.parametrize("name", list(recipes()))
def test_a_recipe_trains_both_networks(name: str, tmp_path: Path) -> None:
    run = load(name, ["batch.size=16"])
    folder = Location.of(str(tmp_path))
    ingest(Digits(), run.data.transform, folder)
    loader = open_loader(folder, run.data.transform, run.batch.size, run.seed)
    replica = Replica(run, TorchDistributed(torch.device("cpu")), loader)
    before = [parameter.detach().clone() for parameter in replica.generator.parameters()]
    for step in range(3):
        metrics = replica.step(step)
    assert replica.verdict() is None
    assert all(math.isfinite(value.item()) for value in metrics.values())
    assert {"loss/generator", "loss/real", "loss/fake"} <= metrics.keys()
    moved = [not torch.equal(now, then) for now, then in zip(replica.generator.parameters(), before, strict=True)]
    assert all(moved)
    assert replica.generate(4, seed=0).shape == (4, *run.image)


@pytest.mark.parametrize("name", [name for name in recipes() if name.startswith("self-")])
def test_a_tpu_form_is_the_papers_and_a_gpu_form_too(name: str) -> None:
    run = load(name)
    scheme = run.scheme.model_dump()
    tpu = name.endswith("-tpu")
    assert run.batch.size == 64
    assert run.batch.shards == (8 if tpu else 1)
    assert scheme["balance"]["form"] == ("normalised" if tpu else "weighted")
    assert run.optimizer.learning_rate == 2e-4
    assert run.optimizer.betas == (0.5, 0.999)


@pytest.mark.parametrize("name", ["gan-mnist", "dcgan-mnist", "dcgan-bedroom"])
def test_a_classic_counterpart_differs_in_the_scheme_alone(name: str) -> None:
    classic, joint = load(name), load(f"self-{name}")
    assert classic.model_copy(update={"scheme": joint.scheme, "recipe": joint.recipe}) == joint
