"""Every recipe trains: its networks, scheme and balance at their real size, on the bundled digits for data."""

import math
from pathlib import Path

import pytest
import torch

from pipelines.data.ingest import ingest
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.config import Run
from service.configuration.recipe import load
from service.configuration.recipe_texts import recipes
from service.losses.balances.loss import LossBalance
from service.losses.balances.validity import ValidityBalance
from service.losses.objectives.bce import BinaryCrossEntropy
from service.losses.objectives.bce_swapped import SwappedBinaryCrossEntropy
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.on_replica.replica import Replica
from service.training.optimizers.adam import Adam
from service.training.schemes.joint import Joint
from tests.conftest import ROOT
from tests.host_values import HostValues
from tests.made_data import FewKinds, pairs

RECIPES = ROOT / "service" / "recipes"


#: What a smaller batch and three steps want otherwise.
OVERRIDES = {"noisy-gan-mnist": ["scheme.critic_batch=8"], "guide-gan-mnist": ["scheme.real_first_steps=1"],
             "wgan-mnist": ["scheme.more_at_first.critic_steps=8"]}  # fmt: skip
#: The cosine of critics that know nothing is 1, and the generator's weight as small as its loss at first.
STEPS = {"self-sim-gan-mnist": 100}


def with_small_data(name: str, folder: Path, batch: int = 16) -> tuple[Run, list[Location]]:
    """A recipe with smaller batches, or images, and data sets that are made up for it."""
    run = load(name)
    small = ["data.transform.size=32"] if run.task.translates else [f"batch.size={batch}", *OVERRIDES.get(name, [])]
    run = load(name, small)
    return run, made_up_for(run, folder)


def made_up_for(run: Run, folder: Path) -> list[Location]:
    """The data sets of a run, made up."""
    sets = [Location.of(str(folder / f"shards-{number}")) for number in range(run.task.data_sets)]
    for number, place in enumerate(sets):
        source = pairs(folder / f"{number}") if run.task.needs_pairs else FewKinds(kinds=run.task.labels or 10)
        ingest(source, run.data.transform, place)
    return sets


@pytest.mark.parametrize("name", list(recipes()))
def test_a_recipe_trains_both_networks(name: str, tmp_path: Path) -> None:
    run, sets = with_small_data(name, tmp_path)
    loaders = [open_loader(folder, run.data.transform, run.batch.size, run.seed) for folder in sets]
    replica = Replica(run, TorchDistributed(torch.device("cpu")), *loaders)
    before = [parameter.detach().clone() for parameter in replica.generator.parameters()]
    steps = STEPS.get(name, 3)
    for step in range(steps):
        metrics = replica.step(step)
    assert replica.diverged() is None
    assert all(math.isfinite(value.item()) for value in metrics.values())
    assert {"loss/generator", "loss/real", "loss/fake"} <= metrics.keys()
    assert {f"loss/{term}" for term in (*run.task.terms, *run.task.fake_head_terms)} <= metrics.keys()
    moved = [not torch.equal(now, then) for now, then in zip(replica.generator.parameters(), before, strict=True)]
    assert any(moved) if run.network.last_stage(run.image) else all(moved)
    assert replica.generate(4, seed=0).shape == (4, *run.image)
    first, second = (said_by_host(replica, step) for step in (steps, steps + 1))
    assert not first.waits and not second.waits, "the step waits for the device, or is given new values by the host"
    assert first.given == second.given


def said_by_host(replica: Replica, step: int) -> HostValues:
    found = HostValues()
    with found:
        replica.step(step)
    return found


@pytest.mark.parametrize("name", [name for name in recipes() if name.startswith(("self-gan", "self-dcgan"))])
def test_a_gpu_form_is_the_papers_and_a_tpu_form_the_notebooks(name: str) -> None:
    run = load(name)
    tpu = name.endswith("-tpu")
    assert run.batch.shards == (8 if tpu else 1)
    assert isinstance(run.scheme, Joint)
    assert isinstance(run.scheme.balance, ValidityBalance if tpu else LossBalance)
    assert run.scheme.balance.form == ("normalised" if tpu else "weighted")
    assert isinstance(run.objective, SwappedBinaryCrossEntropy if tpu else BinaryCrossEntropy)
    assert run.batch.size == 64
    assert isinstance(run.optimizer, Adam)
    assert run.optimizer.learning_rate == 2e-4
    assert run.optimizer.betas == (0.5, 0.999)


@pytest.mark.parametrize(
    "name",
    [
        "gan-mnist",
        "dcgan-mnist",
        "dcgan-bedroom",
        "cgan-mnist",
        "infogan-mnist",
        "wgan-mnist",
        "wgan-gp-mnist",
        "dragan-mnist",
        "sngan-mnist",
        "sagan-mnist",
        "ragan-mnist",
        "lsgan-mnist",
        "softmax-gan-mnist",
        "sim-gan-mnist",
        "noisy-gan-mnist",
        "toy-gan-mnist",
        "toy-tensorflow-mnist",
        "report-mlp-dogs",
        "report-dcgan-dogs",
        "info-cycle-bedroom-kitchen",
        "pggan-bedroom",
    ],
)
def test_a_classic_counterpart_differs_in_the_scheme_alone(name: str) -> None:
    classic, joint = load(name), load(f"self-{name}")
    assert len([line for line in (RECIPES / f"self-{name}.yaml").read_text().splitlines() if line.strip()]) <= 20
    assert classic.model_copy(update={"scheme": joint.scheme, "recipe": joint.recipe}) == joint
