"""Runs on XLA through Ray Train, by the command that a user types."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from service.artifacts import checkpoints
from tests.conftest import train

WORDS = [
    *("digits", "steps=10", "batch.size=64", "network.generator_channels=4", "network.critic_channels=4"),
    *("logging.every=2", "logging.samples_every=5", "checkpoints.every=5", "checkpoints.score_images=16"),
]


def weights(folder: Path) -> dict[str, Tensor]:
    return dict(checkpoints.load(folder / "step-00000010").networks)


def furthest(some: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    assert some.keys() == others.keys()
    return max(float((some[name].double() - others[name].double()).abs().max()) for name in some)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on torch.distributed, with one process."""
    folder = tmp_path_factory.mktemp("runs")
    code, out, err = train(*WORDS, f"storage={folder}", "name=cpu")
    assert code == 0, out + err
    return folder / "cpu"


@pytest.mark.parametrize(("replicas", "chips"), [(1, 4), (2, 2)])
def test_ten_steps_on_emulated_chips_are_those_of_one_cpu(replicas: int, chips: int, on_cpu: Path) -> None:
    words = ["cluster.accelerator=xla", f"cluster.emulated_chips={chips}", f"replicas={replicas}"]
    name = f"xla-{replicas}"
    code, out, err = train(*WORDS, *words, f"storage={on_cpu.parent}", f"name={name}")
    assert code == 0, out + err
    assert f"of {chips} emulated chips" in out
    found = furthest(weights(on_cpu.parent / name), weights(on_cpu))
    print(f"10 steps through Ray Train, {replicas} worker x {chips} chips against one CPU: {found:.1e}")
    assert found < 1e-5
    assert len(list((on_cpu.parent / name / "samples").glob("*.png"))) == 2


def test_a_run_is_resumed_on_the_other_accelerator(on_cpu: Path) -> None:
    storage, xla = on_cpu.parent, ["cluster.accelerator=xla", "cluster.emulated_chips=4"]
    for name, first, then in (("from-cpu", [], xla), ("from-xla", xla, ["cluster.accelerator=cpu"])):
        half = ["steps=5" if word == "steps=10" else word for word in WORDS]
        code, out, err = train(*half, *first, f"storage={storage}", f"name={name}")
        assert code == 0, out + err
        described = json.loads((storage / name / "run.json").read_text())
        assert described["cluster"]["accelerator"] == ("auto" if name == "from-cpu" else "xla")
        code, out, err = train(*WORDS, *then, f"storage={storage}", f"resume={name}")
        assert code == 0, out + err
        found = furthest(weights(storage / name), weights(on_cpu))
        print(f"{name}, 5 steps and 5 more: {found:.1e}")
        assert found < 1e-5


def test_torch_is_the_one_that_torch_xla_is_built_for() -> None:
    assert torch.__version__.startswith("2.9.")
