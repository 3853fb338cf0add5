import numpy as np
import pytest

from pipelines.order import Order

SETTINGS = [(1797, 64, 64), (1797, 64, 100), (500, 64, 12), (70, 7, 128), (64, 64, 1), (5, 1, 3)]


@pytest.mark.parametrize(("rows", "lanes", "batch"), SETTINGS)
def test_every_world_size_deals_the_same_global_batches(rows: int, lanes: int, batch: int) -> None:
    for step in (0, 1, 17, 12345):
        whole = Order(rows, lanes, batch, seed=3).share(step, 0, 1)
        assert len(whole.indices) == batch
        assert whole.first_row == 0
        for world_size in {1, 2, 3, 4, 7, 64} & set(range(1, lanes + 1)):
            shares = [Order(rows, lanes, batch, seed=3).share(step, rank, world_size) for rank in range(world_size)]
            assert np.array_equal(np.concatenate([share.indices for share in shares]), whole.indices)
            starts = np.cumsum([0] + [len(share.indices) for share in shares])[:-1]
            assert [share.first_row for share in shares] == starts.tolist()


@pytest.mark.parametrize(("rows", "lanes", "batch"), SETTINGS)
def test_a_lane_gives_each_of_its_rows_once_an_epoch(rows: int, lanes: int, batch: int) -> None:
    order = Order(rows, lanes, batch, seed=0)
    seen: list[list[int]] = [[] for _ in range(lanes)]
    bounds = [lane * rows // lanes for lane in range(lanes + 1)]
    for step in range(-(-3 * rows // batch)):
        for index in order.share(step, 0, 1).indices:
            seen[int(np.searchsorted(bounds, index, side="right")) - 1].append(int(index))
    for lane, indices in enumerate(seen):
        length = bounds[lane + 1] - bounds[lane]
        for epoch in range(len(indices) // length):
            assert sorted(indices[epoch * length : (epoch + 1) * length]) == list(range(*bounds[lane : lane + 2]))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def epochs(seed: int) -> list[list[int]]:
        order = Order(100, 1, 100, seed)
        return [order.share(step, 0, 1).indices.tolist() for step in range(2)]

    (first, second), (other, _) = epochs(0), epochs(1)
    assert first != second != other != first


def test_a_batch_smaller_than_the_lanes_keeps_every_replica_busy() -> None:
    order = Order(1000, 64, 16, seed=0)
    for step in range(50):
        counts = [len(order.share(step, rank, 4).indices) for rank in range(4)]
        assert max(counts) - min(counts) <= 2
        assert min(counts) > 0
