"""Exact replicas: real processes, in the types that people train in, against one replica, to the last bit."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipelines.components import ConfigError
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.artifacts import checkpoints
from service.configuration.config import Run
from service.configuration.recipe import load
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.replicas.exact.kernels import _same_bits
from service.replicas.exact.layers import check_exact
from service.replicas.exact.layout import Layout
from service.replicas.exact.tree import node_sums, nodes_of, owned_cells, root, tree_sum
from service.replicas.row_sets import RowSet
from service.replicas.rows import Shown
from service.runs.on_replica.replica import Replica
from tests.processes import run_replicas
from tests.replicas.test_replicas import OTHERS, SCHEMES, TINY, weights

STEPS = 3
#: A critic with affine norms and gates, and pools of two domains; networks of a few channels.
_TRANSLATOR = (
    "data.domains=[{source: digits}]", "data.transform.size=32", "batch.size=10",
    "task={name: unpaired, pool_size: 8}", "objective=lsgan",
)  # fmt: skip
TRANSLATIONS = {
    "cyclegan, pools, switchable norms, gates": [
        *_TRANSLATOR, "scheme=alternating", "network={name: resnet, channels: 2, blocks: 1, critic_channels: 2, "
        "norm: switchable, upsampling: pixel_shuffle, convolution: gated}",
    ],
    "stargan, affine instance norms, joint": [
        *_TRANSLATOR, "scheme={name: joint, balance: validity}",
        "network={name: stargan, channels: 2, blocks: 1, critic_channels: 2, critic_stages: 2}",
    ],
}  # fmt: skip
CASES = {**SCHEMES, **OTHERS, **TRANSLATIONS}
#: By case, every weight, statistic and loss.
Trained = dict[str, dict[str, Tensor]]


def build(options: list[str], rank: int, world_size: int, data: str, dtype: str, exact: bool = True) -> Replica:
    own_network = any(option.startswith("network=") for option in options)
    words = [f"dtype={dtype}", f"exact={exact}", *TINY[1:2], *([] if own_network else TINY[2:]), *options]
    run: Run = load("digits", words)
    loaders = [
        open_loader(
            Location.of(data),
            run.data.transform,
            run.batch.size,
            run.seed + number,
            rank,
            world_size,
            cells=run.cells,
        )
        for number in range(run.task.data_sets)
    ]
    return Replica(run, TorchDistributed(torch.device("cpu")), *loaders)


def train(
    rank: int, world_size: int, data: dict[int, str], cases: dict[str, list[str]], dtype: str, steps: int,
    threads: int = 1, exact: bool = True,
) -> Trained:  # fmt: skip
    """Every case after some steps."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found: Trained = {}
    for name, options in cases.items():
        size = 32 if "data.transform.size=32" in options else 16
        replica = build(options, rank, world_size, data[size], dtype, exact)
        for step in range(steps):
            metrics = replica.step(step)
        found[name] = {**weights(replica), **metrics, "diversity": replica.diversity()}
        replica.close()
    torch.set_num_threads(before)
    return {name: {key: value.clone() for key, value in values.items()} for name, values in found.items()}


def assert_equal(found: Trained, expected: Trained) -> None:
    for name, values in expected.items():
        differ = [key for key, value in values.items() if not torch.equal(value, found[name][key])]
        assert differ == [], name


@pytest.fixture(scope="module")
def alone(data: dict[int, str]) -> Trained:
    """One replica, by two threads."""
    found: Trained = run_replicas(1, train, data, CASES, "float32", STEPS, 2)
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 6, 8])
def test_a_sum_is_the_same_whoever_holds_its_cells(count: int) -> None:
    values = torch.randn(count, 50, generator=torch.Generator().manual_seed(0))
    whole = tree_sum(values)
    torch.testing.assert_close(whole.double(), values.double().sum(0), rtol=1e-5, atol=1e-6)
    for cuts in itertools.product([False, True], repeat=count - 1):
        bounds = [0, *(at + 1 for at, cut in enumerate(cuts) if cut), count]
        nodes: dict[tuple[int, int], Tensor] = {}
        for low, high in itertools.pairwise(bounds):
            owned = range(low, high)
            nodes |= dict(zip(nodes_of(owned, count), node_sums(values[low:high], owned, count), strict=True))
        assert torch.equal(root(nodes, count), whole)


def test_sums_of_cells_leave_no_row_out() -> None:
    sets = tuple(
        RowSet(torch.arange(first, first + sum(cells)), first, cells)
        for first, cells in ((3, (2, 0, 3)), (4, (1, 2, 3)))
    )
    layout = Layout(Shown(torch.empty(0), (), sets, 0, shards=2, group_size=5), cells=3)
    values = torch.randn(11, 4, dtype=torch.float64)
    groups = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 3])
    expected = torch.zeros(4, 4, dtype=torch.float64).index_add(0, groups, values)
    torch.testing.assert_close(layout.sums(values).sum(1), expected)
    assert torch.equal(layout.spread(expected), expected[groups])


def test_cells_are_owned_whole() -> None:
    for replicas in range(1, 9):
        owned = [owned_cells(rank, replicas, 8) for rank in range(replicas)]
        assert [cell for cells in owned for cell in cells] == list(range(8))


def test_replicas_agree_to_the_last_bit(data: dict[int, str], alone: Trained) -> None:
    assert_equal(run_replicas(3, train, data, CASES, "float32", STEPS), alone)


def test_exact_training_is_the_same_algorithm(data: dict[int, str]) -> None:
    cases = {name: CASES[name] for name in ("loss, weighted", *TRANSLATIONS, "three noisy generators")}
    exact, plain = (train(0, 1, data, cases, "float64", STEPS, exact=exact) for exact in (True, False))
    for name, values in plain.items():
        for key, value in values.items():
            if value.dim() > 1:  # Of biases before a norm rounding alone decides.
                torch.testing.assert_close(exact[name][key], value, rtol=1e-6, atol=1e-9)


def test_what_cannot_be_exact_is_refused() -> None:
    with pytest.raises(TypeError, match=r"exact: critic\.1: the gradients of a PReLU are not summed in one order"):
        check_exact(nn.Sequential(nn.Linear(2, 2), nn.PReLU()), "critic")
    with pytest.raises(ConfigError, match=r"9 exact replicas cannot share 8 cells; set batch\.cells higher"):
        load("digits", ["exact=true", "replicas=9"])
    load("digits", ["exact=true", "replicas=9", "batch.cells=16"])


def test_how_sums_are_taken_is_part_of_the_recipe() -> None:
    plain, exact = load("digits", []), load("digits", ["exact=true"])
    assert plain.recipe_hash == load("digits", ["batch.cells=4"]).recipe_hash != exact.recipe_hash
    assert exact.recipe_hash != load("digits", ["exact=true", "batch.cells=4"]).recipe_hash


def through_resizes(rank: int, world_size: int, data: str, folder: str, start: int, stop: int) -> None:
    """Go on from the checkpoint of step `start`, if it is not 0, and leave one of step `stop`."""
    replica = build(CASES["loss, weighted"], rank, world_size, data, "float32")
    if start:
        replica.restore(checkpoints.load(Path(folder, str(start)), replica.identity))
    for step in range(start, stop):
        replica.step(step)
    state = replica.state(stop)
    if rank == 0:
        checkpoints.save(state, Path(folder, str(stop)))
    replica.close()


def test_a_checkpoint_has_the_same_bytes_through_resizes(digits: Location, tmp_path: Path) -> None:
    for start, replicas in ((0, 1), (4, 4), (8, 3), (12, 2)):
        run_replicas(replicas, through_resizes, digits.path, str(tmp_path), start, start + 4)
    run_replicas(1, through_resizes, digits.path, str(tmp_path / "alone"), 0, 16)
    files = sorted(file.name for file in (tmp_path / "16").iterdir())
    assert "optimizers.pt" in files and "rows.safetensors" in files
    for name in files:
        assert (tmp_path / "16" / name).read_bytes() == (tmp_path / "alone" / "16" / name).read_bytes(), name


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 4, 5, 8])
def test_any_number_of_replicas_agrees(count: int, data: dict[int, str], alone: Trained) -> None:
    assert_equal(run_replicas(count, train, data, CASES, "float32", STEPS), alone)


@pytest.mark.parametrize(
    ("dtype", "rows", "taken"),
    [
        (torch.float32, 64, True),
        (torch.bfloat16, 512, True),
        (torch.bfloat16, 64, False),  # All trials together have too few values to tell.
    ],
)
def test_products_are_taken_at_once_only_where_that_is_seen_to_make_no_difference(
    dtype: torch.dtype, rows: int, taken: bool
) -> None:
    def product(rows: Tensor, weight: Tensor) -> Tensor:
        return (rows.float() @ weight.float()).to(rows.dtype)

    def in_another_order(rows: Tensor, weight: Tensor) -> Tensor:
        half = rows.shape[1] // 2
        first, second = (rows[:, part].float() @ weight[part].float() for part in (slice(half), slice(half, None)))
        return (first + second).to(rows.dtype)

    given = torch.empty(rows, 96, dtype=dtype), torch.empty(96, 64, dtype=dtype)
    assert _same_bits(product, product, given) is taken
    assert not _same_bits(in_another_order, product, given)


@pytest.mark.long
def test_replicas_agree_in_bfloat16(data: dict[int, str]) -> None:
    alone = run_replicas(1, train, data, CASES, "bfloat16", STEPS, 2)
    assert_equal(run_replicas(3, train, data, CASES, "bfloat16", STEPS), alone)
