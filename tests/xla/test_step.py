"""A step on emulated chips against the same step on one CPU, and what it costs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_xla.debug.metrics as counters
from torch import Tensor, nn

from pipelines.loading.loader import Loader, open_loader
from pipelines.storage.location import Location
from service.artifacts import checkpoints
from service.artifacts.checkpoints import State
from service.configuration.config import Run
from service.configuration.recipe import load
from service.replicas.accelerators import Accelerator, AcceleratorError
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.replicas.accelerators.xla import Xla, _pod, hosts_in_a_row, wiring
from service.replicas.global_layers import GlobalBatchNorm
from service.runs.on_replica.agreement import Wish
from service.runs.on_replica.loop import train
from service.runs.on_replica.replica import Replica
from tests.processes import run_replicas
from tests.training.test_combinations import TASKS, data
from tests.xla.conftest import CHIPS
from tests.xla.pod import Pod

__all__ = ["data"]
SMALL = ["batch.size=32", "network.generator_channels=8", "network.critic_channels=8"]


def opened(run: Run, data: Location, accelerator: Accelerator, loader: Loader | None = None) -> Replica:
    place = accelerator.reads_as, accelerator.world_size
    loaders = [
        loader or open_loader(data, run.data.transform, run.batch.size, run.order_seed(domain), *place)
        for domain in range(run.task.data_sets)
    ]
    return Replica(run, accelerator, *loaders)


def on_cpu() -> TorchDistributed:
    return TorchDistributed(torch.device("cpu"))


def gradients(replica: Replica) -> dict[str, Tensor]:
    networks = nn.ModuleDict({"generator": replica.generator, "critic": replica.critics})
    found = {f"gradient of {name}": one.grad for name, one in networks.named_parameters()}
    return {name: gradient.cpu() for name, gradient in found.items() if gradient is not None}


def after(
    run: Run, data: Location, accelerator: Accelerator, steps: int, loader: Loader | None = None
) -> dict[str, Tensor]:
    """Everything that has come of some steps."""
    replica = opened(run, data, accelerator, loader)
    for step in range(steps):
        values = replica.step(step)
    state = replica.state(steps)
    replica.close()
    return {**state.networks, **state.rows, **gradients(replica), **{k: v.detach().cpu() for k, v in values.items()}}


def apart(some: dict[str, Tensor], others: dict[str, Tensor]) -> tuple[float, str]:
    """How far the furthest two values are apart, and whose they are."""
    assert some.keys() == others.keys()
    return max((float((some[name].double() - others[name].double()).abs().max()), name) for name in some)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["batch.shards=2", "scheme.balance.form=normalised"],
        ["scheme.balance.applied_to=update"],
        ["network.dropout=0.3", "ema={}"],
        ["scheme=alternating", "network.minibatch=deviation"],
    ],
    ids=["joint", "shards", "weights applied to updates", "dropout, ema", "alternating"],
)
def test_a_step_is_the_step_of_one_cpu(words: Sequence[str], digits: Location) -> None:
    run = load("digits", [*SMALL, *words])
    found = apart(after(run, digits, Xla(), 1), after(run, digits, on_cpu(), 1))
    print(f"one step, {CHIPS} chips against one CPU: {found}")
    assert found[0] < 1e-5


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("unconditional", [*SMALL, "regularizers=spectral_norm", "ema={}"]),
        # Of 20 images two steps fill 16. In float64, as some of its gradients are nothing but roundings.
        (
            "unpaired",
            ["batch.size=8", "data.transform.size=32", *TASKS["unpaired"], "task.pool_size=20", "dtype=float64"],
        ),
    ],
    ids=["spectral norm, ema", "a pool that fills up"],
)
def test_a_checkpoint_goes_on_on_the_other_accelerator(
    task: str, words: Sequence[str], data: dict[str, Location], digits: Location, tmp_path: Path
) -> None:
    run, digits = load("digits", words), digits if task == "unconditional" else data[task]
    straight = opened(run, digits, on_cpu())
    states: dict[int, State] = {}
    for step in range(6):
        straight.step(step)
        states[step + 1] = straight.state(step + 1)
    straight.close()
    xla = moved(run, digits, states[2], Xla(), 4, tmp_path / "to XLA")
    back = moved(run, digits, xla, on_cpu(), 6, tmp_path / "and back")
    groups = torch.load(tmp_path / "and back" / "optimizers.pt")["joint"]["param_groups"]
    assert not [group for group in groups if group.keys() & {"fused", "foreach", "capturable"}]
    for there, step in ((xla, 4), (back, 6)):
        straight_on = states[step]
        found = apart({**there.networks, **there.shared}, {**straight_on.networks, **straight_on.shared})
        print(f"moved, step {step}: {found}")
        assert found[0] < 1e-4


def moved(run: Run, data: Location, state: State, accelerator: Accelerator, until: int, folder: Path) -> State:
    """The state of a run that goes on elsewhere, from what was written."""
    checkpoints.save(state, folder)
    replica = opened(run, data, accelerator)
    replica.restore(checkpoints.load(folder, replica.identity))
    for step in range(state.step, until):
        replica.step(step)
    found = replica.state(until)
    replica.close()
    return found


class Kept:
    """Outputs, and how often XLA had compiled at each step."""

    def __init__(self) -> None:
        self.compiled: dict[int, int] = {}
        self.samples_at: list[int] = []
        self.metrics_at: list[int] = []

    def progress(self, step: int) -> None:
        self.compiled[step] = int(counters.counter_value("UncachedCompile") or 0)

    def metrics(self, step: int, values: Any) -> None:
        self.metrics_at.append(step)

    def warn(self, text: str) -> None: ...

    def samples(self, step: int, images: Tensor) -> None:
        self.samples_at.append(step)

    def checkpoint(self, state: State, score: float | None) -> None: ...

    def wish(self, step: int) -> Wish:
        return Wish()


def test_nothing_is_compiled_after_the_second_step(digits: Location) -> None:
    words = ["steps=60", "logging.every=2", "logging.samples_every=2", "checkpoints.every=2", "ema={}"]
    run = load("digits", [*SMALL, *words, "optimizer.decay={start: 5, steps: 100}"])
    replica, kept = opened(run, digits, Xla()), Kept()
    counters.clear_all()
    train(run, Xla(), replica, kept)
    replica.close()
    assert kept.metrics_at[-1] >= 50 and len(kept.samples_at) == 30
    print(f"compiled by step: {dict(list(kept.compiled.items())[:4])}, in the end {kept.compiled[60]}")
    assert kept.compiled[60] == kept.compiled[3]  # What is done after the second step is in the third's count.


def test_the_host_looks_at_values_when_it_logs_and_not_before(digits: Location) -> None:
    run = load("digits", [*SMALL, "ema={}"])
    replica, xla = opened(run, digits, Xla()), Xla()
    counters.clear_all()
    for step in range(50):
        values = replica.step(step)
    pending = xla.fetch(values)
    assert [name for name in counters.counter_names() if name.startswith("aten::")] == []
    assert counters.metric_data("TransferFromDeviceTime") is None
    assert pending.get().keys() == values.keys()
    assert counters.metric_data("TransferFromDeviceTime") is not None
    replica.close()


def test_statistics_and_losses_are_float32_where_products_are_bfloat16(digits: Location) -> None:
    run = load("digits", [*SMALL, "dtype=bfloat16"])
    replica, seen = opened(run, digits, Xla()), dict[str, set[torch.dtype]]()

    def note(kind: str, value: Tensor) -> None:
        seen.setdefault(kind, set()).add(value.dtype)

    for module in [*replica.generator.modules(), *replica.critics.modules()]:
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, inputs, output: note("products", output))
        if isinstance(module, GlobalBatchNorm):
            module.register_forward_hook(lambda _, inputs, output: note("norms", output))
    values = replica.step(0)
    for value in values.values():
        note("losses", value)
    for value in replica.state(1).networks.values():
        note("state", value)
    assert seen["products"] == {torch.bfloat16}
    assert seen["norms"] == seen["losses"] == {torch.float32}
    assert seen["state"] == {torch.float32, torch.int64}
    exact = after(load("digits", SMALL), digits, on_cpu(), 1)
    assert all(abs(float(exact[name]) - value.item()) < 0.02 for name, value in values.items())
    replica.close()


def test_a_diverged_step_changes_no_weights() -> None:
    xla = Xla()
    weights = nn.Parameter(torch.ones(3).to(xla.device))
    optimizer = torch.optim.Adam([weights], lr=0.1)
    for skip, expected in ((0.0, 0.9), (1.0, 0.9)):
        weights.grad = torch.full((3,), float("nan") if skip else 1.0, device=xla.device)
        xla.step(optimizer, torch.tensor(skip).to(xla.device))
        xla.finish()
        assert torch.allclose(weights.detach().cpu(), torch.full((3,), expected))


def emulated(rank: int, count: int, run: Run, data: Location) -> dict[str, Tensor]:
    return after(run, data, Xla(rank, count), 2)


def test_two_emulated_hosts_are_one(digits: Location) -> None:
    run = load("digits", ["batch.size=64", *SMALL[1:]])
    found = apart(run_replicas(2, emulated, run, digits), after(run, digits, on_cpu(), 2))
    print(f"two steps, 2 hosts x {CHIPS} chips against one CPU: {found}")
    assert found[0] < 1e-5


def test_two_emulated_hosts_are_one_in_bfloat16(digits: Location) -> None:
    """Chips against chips: a CPU's own products round other sums to 8 bits."""
    run = load("digits", ["batch.size=64", *SMALL[1:], "dtype=bfloat16"])
    found = apart(run_replicas(2, emulated, run, digits), after(run, digits, Xla(), 2))
    print(f"two steps in bfloat16, 2 hosts x {CHIPS} chips against one: {found}")
    assert found[0] < 1e-5


@pytest.mark.parametrize(
    ("cuts", "chips"),
    [
        ([[16, 16]], []),
        ([[10, 6, 9, 7], [7, 9, 6, 10]], []),
        ([[32, 0], [31, 1]], []),
        ([[16, 16]], [2, 0, 3, 1]),
    ],
    ids=["as many each", "more and fewer", "none", "chips in another order"],
)
def test_batches_that_hosts_have_read_in_parts_are_whole(
    cuts: Sequence[Sequence[int]], chips: Sequence[int], digits: Location
) -> None:
    run = load("digits", SMALL)
    loader = open_loader(digits, run.data.transform, run.batch.size, run.order_seed(0))
    found = apart(after(run, digits, Pod(*cuts, chips=chips), 2, loader), after(run, digits, on_cpu(), 2))
    print(f"two steps, {len(cuts[0])} hosts that feed one program against one CPU: {found}")
    assert found[0] < 1e-5


def test_rows_that_are_shared_out_evenly_need_no_order() -> None:
    for pod, ordered in ((Pod([4, 4]), False), (Pod([5, 3]), True), (Pod([4, 4], chips=[1, 0, 3, 2]), True)):
        assert pod.rows(0, 8, 8, 8).tolist() == list(range(8))
        assert (pod._order is not None) == ordered


def test_a_pod_that_is_wired_wrongly_is_named() -> None:
    assert wiring(4, 4, 4) is None
    for world_size, processes, ones in ((4, 1, 1), (4, 8, 8), (4, 4, 1)):
        assert f"of the {world_size} hosts that Ray has started, XLA counts {processes} and" in str(
            wiring(world_size, processes, ones)
        )
    Xla()
    with pytest.raises(AcceleratorError, match="of the 2 hosts that Ray has started, XLA counts 1 and adds up over 1"):
        _pod(2)
    assert list(_pod(1).get_logical_mesh()) == list(range(CHIPS))
    assert hosts_in_a_row([0, 0, 1, 1]) == [0, 1, 2, 3]
    assert hosts_in_a_row([1, 0, 1, 0]) == [1, 3, 0, 2]
