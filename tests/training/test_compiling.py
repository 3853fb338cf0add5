"""Compiled steps: what plain ones give, in graphs without a break, compiled once."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.compatibility import check_shares
from service.configuration.config import Run
from service.configuration.recipe import load
from service.configuration.recipe_texts import recipes
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.on_replica.replica import Replica
from service.training import context
from service.training.compiling import Compile, compiled
from tests.processes import run_replicas
from tests.replicas.test_replicas import TINY, distance, weights
from tests.training.test_recipes import with_small_data

#: Spectral norms, minibatch layers, critics in turn, statistics that a layer changes while it uses them.
QUICK = ["dcgan-mnist", "self-sngan-mnist", "self-infogan-mnist"]
REFUSED = {
    name: reason
    for name in recipes()
    for run in [load(name)]
    for reason in [
        "several batches" if run.scheme.batches(0) > 1 else ""
    ]
    if reason
}  # fmt: skip
LONG = [name for name in recipes() if name not in [*QUICK, *REFUSED]]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test finds what another has compiled, nor the backend that it has taken."""
    monkeypatch.setattr(context, "compiled", compiled)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def opened(run: Run, sets: list[Location], rank: int = 0, world_size: int = 1) -> Replica:
    loaders = [open_loader(at, run.data.transform, run.batch.size, run.seed, rank, world_size) for at in sets]
    return Replica(run, TorchDistributed(torch.device("cpu")), *loaders)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)])
def test_a_recipe_is_recorded_without_a_break_and_does_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded, and not made into code, which is the same for all of them: that takes a minute each."""
    monkeypatch.setattr(context, "compiled", partial(compiled, backend="aot_eager"))
    run, sets = with_small_data(name, tmp_path, batch=4 if name.endswith("dcgan-dogs") else 16)
    run = run.model_copy(update={"dtype": "float64"})
    recorded, plain = opened(run.model_copy(update={"compile": Compile()}), sets), opened(run, sets)
    graphs = []
    for step in range(4):
        found, expected = recorded.step(step), plain.step(step)
        graphs.append(counters["stats"]["unique_graphs"])
        for loss, value in expected.items():
            torch.testing.assert_close(found[loss], value, rtol=1e-9, atol=1e-12, msg=f"{loss} at step {step}")
    assert graphs[0] > 0 and graphs[2] == graphs[1] == graphs[3], graphs


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compiled_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"compile: .*{REFUSED[name]}"):
        load(name, ["compile=true"])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["exact=true"], "chooses the order of sums"),
        (["batch.rows_at_once=8"], "micro-batches compute activations twice"),
        (["network={name: pggan}", "batch.size=16"], "networks that grow"),
        (["scheme={name: alternating, critic_steps: 5, order: critic_first}"], "several batches for the critic"),
    ],
)
def test_so_is_what_would_not_be_the_same(words: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load("digits", ["compile=true", *words])


def test_replicas_whose_shares_change_are_refused() -> None:
    run = load("digits", ["compile=true", "replicas=2", "batch.size=48"])
    check_shares(run, 48)
    with pytest.raises(ValueError, match=r"make batch\.size a multiple of 64"):
        check_shares(run, 64)


def trained(
    rank: int, world_size: int, data: str, words: list[str], backend: str, steps: int, dtype: str = "float64"
) -> tuple[dict[str, Tensor], int]:
    """A run's weights after some steps, and how many graphs were recorded after the second one."""
    setattr(context, "compiled", partial(compiled, backend=backend))  # noqa: B010  # Also in processes of their own.
    replica = opened(load("digits", [f"dtype={dtype}", *TINY[1:], *words]), [Location.of(data)], rank, world_size)
    at_second = 0
    for step in range(steps):
        replica.step(step)
        if step % 20 == 10:
            replica.generate(4, 0)  # Samples are made of the networks that the step has compiled.
        if step == 1:
            at_second = counters["stats"]["unique_graphs"]
    return weights(replica), counters["stats"]["unique_graphs"] - at_second


def test_a_penalty_that_is_not_due_at_every_step_takes_no_new_code(digits: Location) -> None:
    words = ["batch.size=8", "regularizers=[{name: r1, every: 3}]", "network.critic_batch_norm=false"]
    plain, _ = trained(0, 1, digits.path, words, "aot_eager", 8)
    found, recompiled = trained(0, 1, digits.path, ["compile=true", *words], "aot_eager", 8)
    assert recompiled == 0
    assert distance(found, plain) < 1e-9


@pytest.mark.parametrize(
    "scheme", ["alternating", "{name: joint, generator_trains_critic: false, fakes: current, passes: two}"]
)
def test_what_penalties_share_leaves_the_rest_of_a_step_compiled(scheme: str, digits: Location) -> None:
    words = ["batch.size=8", f"scheme={scheme}", "network.critic_batch_norm=false"]
    words += ["regularizers=[{name: r1, every: 1}, {name: r2, every: 1}]"]
    plain, _ = trained(0, 1, digits.path, words, "aot_eager", 3)
    found, recompiled = trained(0, 1, digits.path, ["compile=true", *words], "aot_eager", 3)
    assert recompiled == 0
    assert distance(found, plain) < 1e-9
    assert counters["frames"]["ok"] == counters["frames"]["total"], "code was given up"


def test_schedules_and_weights_of_updates_take_no_new_code(digits: Location) -> None:
    words = [
        "batch.size=8", "network.critic_batch_norm=false", "scheme.balance.applied_to=update",
        "ema={half_life_images: {base: 0, final: 50, images: 60}}",
        "optimizer.betas=[0, {base: 0.9, final: 0.99, steps: 6}]",
        "regularizers=[{name: r1, every: 1, weight: {base: 2, final: 0, images: 60}}, "
        "{name: ada, target: null, probability: {base: 0.1, final: 1, images: 60}}]",
    ]  # fmt: skip
    plain, _ = trained(0, 1, digits.path, words, "aot_eager", 6)
    found, recompiled = trained(0, 1, digits.path, ["compile=true", *words], "aot_eager", 6)
    assert recompiled == 0
    assert distance(found, plain) < 1e-9


@pytest.mark.parametrize("scheme", ["joint", "alternating"])
def test_a_probability_of_augmentation_that_changes_takes_no_new_code(scheme: str, digits: Location) -> None:
    words = ["batch.size=8", f"scheme={scheme}", "regularizers=[{name: ada, every: 2, images: 80, probability: 0.5}]"]
    plain, _ = trained(0, 1, digits.path, words, "aot_eager", 6)
    found, recompiled = trained(0, 1, digits.path, ["compile=true", *words], "aot_eager", 6)
    assert recompiled == 0
    assert distance(found, plain) < 1e-9
    assert plain["critic.image.augmentation.plain.probability"] != 0.5


def test_bfloat16_is_that_of_a_plain_step(digits: Location) -> None:
    plain, _ = trained(0, 1, digits.path, ["batch.size=8"], "aot_eager", 3, "bfloat16")
    found, recompiled = trained(0, 1, digits.path, ["compile=true", "batch.size=8"], "aot_eager", 3, "bfloat16")
    assert recompiled == 0
    assert distance(found, plain) < 1e-3
    full, _ = trained(0, 1, digits.path, ["batch.size=8"], "aot_eager", 3, "float32")
    assert distance(full, plain) > 1e-3, "it is bfloat16"


@pytest.mark.long
def test_replicas_stay_together(digits: Location) -> None:
    words = ["batch.size=64"]
    plain, _ = trained(0, 1, digits.path, words, "aot_eager", 3)
    compiled_too, recompiled = run_replicas(2, trained, digits.path, [*words, "compile=true"], "aot_eager", 3)
    assert distance(compiled_too, plain) < 1e-9
    assert recompiled == 0


@pytest.mark.long
def test_code_is_made_once_for_a_hundred_steps(digits: Location) -> None:
    """With samples, falling rates, and a moving average."""
    words = ["batch.size=24", "optimizer.decay.start=10", "optimizer.decay.steps=80", "ema={}"]
    plain, _ = trained(0, 1, digits.path, words, "inductor", 100)
    found, recompiled = trained(0, 1, digits.path, ["compile=true", *words], "inductor", 100)
    assert recompiled == 0
    assert distance(found, plain) < 1e-6


@pytest.mark.long
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(digits: Location) -> None:
    run = load("digits", [*TINY[1:], "batch.size=24", "compile=true"])  # In float32.
    whole, again = opened(run, [digits]), opened(run, [digits])
    for step in range(5):
        whole.step(step)
    kept = whole.state(5)
    again.restore(kept)
    for step in range(5, 10):
        whole.step(step)
        again.step(step)
    for (name, one), other in zip(whole.generator.named_parameters(), again.generator.parameters(), strict=True):
        assert torch.equal(one, other), name
