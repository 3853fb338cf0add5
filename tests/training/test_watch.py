"""Divergence, warnings, scores and pictures."""

import math

import pytest
import torch
from torch import Tensor

from pipelines.loading.loader import LocalBatch
from pipelines.storage.location import Location
from service.losses.objectives import Scores
from service.losses.objectives.bce_swapped import SwappedBinaryCrossEntropy
from service.runs.on_replica.replica import Replica
from service.tracking.sample_grids import grid
from service.training.health.divergence import Diverged, Divergence
from service.training.health.score import sliced_wasserstein
from service.training.health.warnings import PATIENCE, Monitor
from tests.processes import run_replicas
from tests.replicas.test_replicas import SCHEMES, build


def spoil(replica: Replica, bad_step: int) -> None:
    """Makes one pixel of the replica's real images not a number at `bad_step`."""
    loader = replica._real._loaders[0]
    read = loader.batch

    def batch(step: int) -> LocalBatch:
        local = read(step)
        images = local.images.double()
        if step == bad_step:
            images[0, 0, 0, 0] = math.nan
        return local._replace(images=images)

    loader.batch = batch  # type: ignore[method-assign]


def spoiled(rank: int, world_size: int, data: str, name: str, bad_step: int) -> tuple[Diverged | None, bool]:
    """Trains with a bad pixel on the last replica: the verdict, and whether weights moved from that step on."""
    _, replica = build(SCHEMES[name], rank, world_size, data)
    if rank == world_size - 1:
        spoil(replica, bad_step)
    for step in range(bad_step):
        replica.step(step)
    parameters = [*replica.generator.parameters(), *replica.critics.parameters()]
    before = [parameter.detach().clone() for parameter in parameters]
    for step in range(bad_step, bad_step + 3):
        replica.step(step)
    moved = any(not torch.equal(now, then) for now, then in zip(parameters, before, strict=True))
    return replica.diverged(), moved


def spoiled_each(
    rank: int, world_size: int, data: str, names: list[str], bad_step: int
) -> list[tuple[Diverged | None, bool]]:
    return [spoiled(rank, world_size, data, name, bad_step) for name in names]


@pytest.mark.parametrize("count", [1, 2])
def test_a_bad_value_on_one_replica_stops_the_updates_of_all(count: int, digits: Location) -> None:
    names = ["loss, weighted", "validity, normalised, 8 shards"]
    for verdict, moved in run_replicas(count, spoiled_each, digits.path, names, 4):
        assert verdict == Diverged(4, ("real",))
        assert not moved
        assert str(verdict) == "diverged at step 4: real not finite"


def test_the_first_bad_step_of_each_term_is_kept() -> None:
    watch = Divergence(("a", "b"), torch.device("cpu"))
    for step, losses in enumerate([[1.0, 2.0], [1.0, math.inf], [math.nan, 1.0]]):
        skip = watch.watch(torch.tensor(losses), torch.tensor(step))
        assert float(skip) == (step > 0)
    assert watch.diverged() == Diverged(1, ("b",))


def log(**values: float) -> dict[str, float]:
    return {"loss/real": 0.5, "loss/fake": 0.5, "loss/generator": 1.0, "diversity": 1.0} | {
        key.replace("_", "/", 1) if key.startswith("loss") else key: value for key, value in values.items()
    }


def test_a_lost_gradient_and_a_collapse_are_warned_of_once() -> None:
    monitor = Monitor()
    healthy = [monitor.look(log(loss_generator=1 + step % 3)) for step in range(PATIENCE)]
    assert not any(healthy)
    bad = [monitor.look(log(loss_real=0.001, loss_fake=0.0, loss_generator=9.0, diversity=0.01)) for _ in range(30)]
    found = [text for texts in bad for text in texts]
    assert len(found) == 2
    assert bad.index(list(found)) == PATIENCE - 1
    assert "gradient has vanished" in found[0]
    assert "collapsed" in found[1]


def test_the_score_tells_near_from_far() -> None:
    draw = torch.Generator().manual_seed(0)
    real, other = (torch.randint(0, 200, (2, 128, 1, 8, 8), generator=draw)).to(torch.uint8)
    assert sliced_wasserstein(real, real) == 0
    near, far = sliced_wasserstein(other, real), sliced_wasserstein(other // 4, real)
    assert 0 < near < far / 3
    shifted = sliced_wasserstein(real + 10, real)
    assert 0 < shifted <= 10 * math.sqrt(64)


def test_a_grid_sets_tiles_apart() -> None:
    images = torch.full((5, 1, 16, 16), 255, dtype=torch.uint8)
    picture = grid(images)
    assert picture.size == (4 * (2 + 3 * 18), 4 * (2 + 2 * 18))
    assert picture.getpixel((4 * 18 + 2, 40)) == 96
    assert picture.getpixel((40, 40)) == 255
    assert grid(torch.zeros(4, 3, 64, 64, dtype=torch.uint8)).mode == "RGB"


def test_the_swapped_loss_is_kerass() -> None:
    """-(v log t + (1 - v) log(1 - t)) with t clipped to [1e-7, 1 - 1e-7], in float32 as Keras does it."""
    logits = torch.linspace(-6, 6, 25, dtype=torch.float64)
    v = torch.sigmoid(logits)

    def losses(logits: Tensor) -> list[Tensor]:
        """On real and on fake, of each logit alone."""
        judged = Scores(logits.view(-1, 1, 1), torch.ones(len(logits), 1, 1), lambda name: torch.empty(0))
        return list(SwappedBinaryCrossEntropy().critic(judged, judged))

    for target, ours in zip((1.0, 0.0), losses(logits), strict=True):
        t = torch.tensor(target).clamp(1e-7, 1 - 1e-7)
        expected = -(v * torch.log(t).double() + (1 - v) * torch.log(1 - t).double())
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    assert [float(loss) for loss in losses(torch.zeros(1, dtype=torch.float64))] == pytest.approx(
        [7.97, 8.06], abs=0.01
    )
