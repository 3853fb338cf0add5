from itertools import pairwise

import numpy as np
import pytest

from pipelines.loading.order import WINDOW_BLOCKS, Indices, Order


def blocks_of(rows: int, block_rows: int) -> list[int]:
    return [min(block_rows, rows - start) for start in range(0, rows, block_rows)]


#: rows, rows of a block, lanes, batch size
SETTINGS = [(1797, 7, 64, 64), (1797, 100, 64, 100), (500, 3, 64, 12), (70, 70, 7, 128), (64, 1, 64, 1), (5, 2, 1, 3)]


@pytest.mark.parametrize(("rows", "block_rows", "lanes", "batch"), SETTINGS)
def test_every_world_size_deals_the_same_global_batches(rows: int, block_rows: int, lanes: int, batch: int) -> None:
    blocks = blocks_of(rows, block_rows)
    whole_order = Order(blocks, lanes, batch, seed=3)
    for step in (0, 1, 17, 12345):
        whole = whole_order.share(step, 0, 1)
        assert len(whole.indices) == batch
        assert whole.first_row == 0
        for world_size in {1, 2, 3, 4, 7, 64} & set(range(1, lanes + 1)):
            shares = [Order(blocks, lanes, batch, seed=3).share(step, rank, world_size) for rank in range(world_size)]
            assert np.array_equal(np.concatenate([share.indices for share in shares]), whole.indices)
            assert max(len(share.indices) for share in shares) <= whole_order.most(world_size)
            starts = np.cumsum([0] + [len(share.indices) for share in shares])[:-1]
            assert [share.first_row for share in shares] == starts.tolist()


def lane_stream(order: Order, lane: int, length: int) -> list[int]:
    """The first `length` rows of a lane, taken from the batches of a replica that has this lane alone."""
    taken: list[int] = []
    step = 0
    while len(taken) < length:
        taken += order.share(step, lane, order.lanes).indices.tolist()
        step += 1
    return taken[:length]


@pytest.mark.parametrize(("rows", "block_rows", "lanes", "batch"), SETTINGS)
def test_the_most_that_a_replica_reads_is_read_by_one(rows: int, block_rows: int, lanes: int, batch: int) -> None:
    order = Order(blocks_of(rows, block_rows), lanes, batch, seed=3)
    for world_size in {1, 2, 3, 4, 7} & set(range(1, lanes + 1)):
        shares = [order.share(step, rank, world_size) for step in range(5, 5 + lanes) for rank in range(world_size)]
        assert max(len(share.indices) for share in shares) == order.most(world_size)


@pytest.mark.parametrize(("rows", "block_rows", "lanes", "batch"), SETTINGS)
def test_a_lane_gives_each_of_its_rows_once_an_epoch(rows: int, block_rows: int, lanes: int, batch: int) -> None:
    order = Order(blocks_of(rows, block_rows), lanes, batch, seed=0)
    seen: list[int] = []
    for lane in range(lanes):
        length = (lane + 1) * rows // lanes - lane * rows // lanes
        stream = lane_stream(order, lane, 3 * length)
        epochs = [sorted(stream[start : start + length]) for start in range(0, 3 * length, length)]
        assert epochs[0] == epochs[1] == epochs[2]
        seen += epochs[0]
    assert sorted(seen) == list(range(rows))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def epochs(seed: int) -> list[list[int]]:
        order = Order(blocks_of(100, 10), 1, 100, seed)
        return [order.share(step, 0, 1).indices.tolist() for step in range(2)]

    (first, second), (other, _) = epochs(0), epochs(1)
    assert first != second != other != first


def test_a_batch_smaller_than_the_lanes_keeps_every_replica_busy() -> None:
    order = Order(blocks_of(1000, 3), 64, 16, seed=0)
    for step in range(50):
        counts = [len(order.share(step, rank, 4).indices) for rank in range(4)]
        assert max(counts) - min(counts) <= 2
        assert min(counts) > 0


@pytest.mark.parametrize(("rows", "block_rows", "lanes", "batch"), SETTINGS)
def test_a_position_lies_in_its_window_and_its_window_in_few_blocks(
    rows: int, block_rows: int, lanes: int, batch: int
) -> None:
    order = Order(blocks_of(rows, block_rows), lanes, batch, seed=5)
    for lane in {0, lanes // 2, lanes - 1}:
        length = (lane + 1) * rows // lanes - lane * rows // lanes
        stream = lane_stream(order, lane, 2 * length)
        at = 0
        while at < 2 * length:
            window = order.window(lane, at)
            assert window.start == at
            assert all(order.window(lane, position) == window for position in range(at, window.stop))
            assert len(window.blocks) <= WINDOW_BLOCKS
            assert {row // block_rows for row in stream[at : window.stop]} == set(window.blocks)
            at = window.stop


def test_the_step_that_takes_a_position_is_known_beforehand() -> None:
    order = Order(blocks_of(500, 3), 64, 12, seed=0)
    for lane in (0, 1, 40, 63):
        for position in range(30):
            step = order.step_of(lane, position)
            assert order.positions(step)[lane] <= position < order.positions(step + 1)[lane]


def correlation(sequence: Indices, lag: int) -> float:
    """Of the source positions of samples that are `lag` apart in the order of training."""
    return float(np.corrcoef(sequence[:-lag], sequence[lag:])[0, 1])


def test_neighbours_in_the_order_are_not_neighbours_in_the_source() -> None:
    """Figures as the correlation of neighbours' source positions: a full permutation's is 0, the source's own 1."""
    rows, batch = 300_000, 64
    order = Order(blocks_of(rows, 85), 64, batch, seed=0)
    epoch = np.concatenate([order.share(step, 0, 1).indices for step in range(rows // batch)])
    full = np.random.default_rng(0).permutation(rows)
    noise = 4 / np.sqrt(rows)
    print(f"\nneighbours' correlation: {correlation(epoch, 1):.4f}, full permutation {correlation(full, 1):.4f}")
    print(f"a batch apart: {correlation(epoch, batch):.4f}")
    assert abs(correlation(full, 1)) < noise
    assert abs(correlation(epoch, 1)) < 0.02
    # Rows of one lane meet again 64 samples later, out of a window of four blocks: one in four is a neighbour.
    assert correlation(epoch, batch) < 1.2 / WINDOW_BLOCKS
    # A batch is spread over the source as evenly as one that is drawn at random.
    batches = epoch[: rows // batch * batch].reshape(-1, batch)
    drawn = full[: rows // batch * batch].reshape(-1, batch)
    print(
        f"spread of a batch: {batches.std(1).mean() / rows:.4f} of the source, drawn {drawn.std(1).mean() / rows:.4f}"
    )
    assert abs(batches.std(1).mean() / drawn.std(1).mean() - 1) < 0.02


def test_reading_is_in_large_ranges() -> None:
    """Each lane opens each of its blocks once an epoch, whole: a block is one range of a file."""
    order = Order(blocks_of(20_000, 85), 16, 64, seed=0)
    opened = 0
    for lane in range(16):
        at, length = 0, (lane + 1) * 20_000 // 16 - lane * 20_000 // 16
        while at < length:
            window = order.window(lane, at)
            opened += len(window.blocks)
            at = window.stop
    assert opened <= len(blocks_of(20_000, 85)) + 15  # Blocks at the border of two lanes are opened by both.


def test_windows_of_lanes_end_at_different_steps() -> None:
    order = Order(blocks_of(100_000, 50), 16, 16, seed=0)
    ends = [order.step_of(lane, order.window(lane, 0).stop) for lane in range(16)]
    assert all(later >= earlier for earlier, later in pairwise(sorted(ends)))
    assert len(set(ends)) >= WINDOW_BLOCKS
