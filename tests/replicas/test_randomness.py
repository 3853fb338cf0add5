import itertools
import math
from collections.abc import Callable

import pytest
import torch

from benchmarks.operations import Counting
from service.replicas.noise import Draw, Noise
from service.replicas.randomness import counters, key_of, normal, squares, uniform
from service.replicas.rows import Rows

MASK = (1 << 64) - 1


def squares32(counter: int, key: int) -> int:
    """Widynski's reference, in Python integers."""

    def rotate(x: int) -> int:
        return ((x >> 32) | (x << 32)) & MASK

    y = counter * key & MASK
    z = (y + key) & MASK
    x = rotate((y * y + y) & MASK)
    x = rotate((x * x + z) & MASK)
    x = rotate((x * x + y) & MASK)
    return ((x * x + z) & MASK) >> 32


def test_bits_are_those_of_the_reference() -> None:
    key = key_of(7, "latents")
    rows = torch.tensor([0, 5, 63])
    drawn = squares(counters(rows, 4), 12, key)
    expected = [[squares32((12 << 36) + row * 4 + column, key) for column in range(4)] for row in rows.tolist()]
    assert drawn.tolist() == expected


def test_a_row_draws_the_same_wherever_it_is_drawn() -> None:
    key = key_of(0, "x")
    whole = normal(key, 3, torch.arange(64), 101)
    for rows in (torch.arange(21, 43), torch.tensor([63]), torch.tensor([5, 1])):
        assert torch.equal(normal(key, torch.tensor(3), rows, 101), whole[rows])


@pytest.mark.parametrize("draw", [uniform, normal])
def test_large_draws_are_what_their_rows_draw_by_themselves(draw: Callable[..., torch.Tensor]) -> None:
    """Of several pieces, the last one not full."""
    key, rows, per_row = key_of(0, "x"), torch.arange(40), 8189 * torch.get_num_threads()
    whole = draw(key, 3, rows, per_row)
    assert torch.equal(whole, torch.cat([draw(key, 3, row[None], per_row) for row in rows]))


def test_seed_name_step_and_row_each_change_the_draw() -> None:
    rows = torch.arange(8)
    draws = [
        uniform(key_of(0, "a"), 0, rows, 16),
        uniform(key_of(1, "a"), 0, rows, 16),
        uniform(key_of(0, "b"), 0, rows, 16),
        uniform(key_of(0, "a"), 1, rows, 16),
        uniform(key_of(0, "a"), 0, rows + 8, 16),
    ]
    values = torch.stack(draws).flatten()
    assert len(values.unique()) > 0.99 * len(values)


@pytest.mark.parametrize("name", ["latents", "critic.2", "x"])
def test_draws_have_the_distribution_they_say(name: str) -> None:
    key, rows = key_of(0, name), torch.arange(1000)
    flat = uniform(key, 5, rows, 200).double().flatten().sort().values
    steps = torch.arange(1, len(flat) + 1) / len(flat)
    # Kolmogorov and Smirnov: at this bound one in a million honest generators would fail.
    assert float((flat - steps).abs().max()) < 2.7 / math.sqrt(len(flat))
    gauss = normal(key, 5, rows, 201).double()
    assert abs(float(gauss.mean())) < 0.01
    assert abs(float(gauss.var()) - 1) < 0.02
    assert abs(float((gauss**4).mean()) - 3) < 0.15
    neighbours = torch.corrcoef(torch.stack([gauss[:, :-1].flatten(), gauss[:, 1:].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 0.012


def test_draws_of_a_step_are_made_at_once_and_are_what_each_is_by_itself() -> None:
    """Of some sets of rows, with odd lengths, and one that has no row here."""
    rows = [((0, 8),), ((21, 5), (85, 5)), ((3, 0),)]
    draws = [
        Draw(kind, key_of(0, f"{kind} {number}"), per_row, of_draw)
        for kind in ("uniform", "normal")
        for number, (per_row, of_draw) in enumerate(itertools.product((1, 4, 7), rows))
    ]
    noise = Noise(torch.device("cpu"))
    for step in range(3):
        noise.begin("a kind of steps")
        with Counting() as count:
            made = {draw: noise.draw(draw, torch.tensor(step)) for draw in draws}
        if not step:
            assert set(made.values()) == {None}, "nobody has said what the first step draws"
            continue
        assert count.operations < 45 + len(draws), "those of one draw of either kind, and one to join each pair"
        for draw, values in made.items():
            numbers = torch.cat([torch.arange(first, first + length) for first, length in draw.rows])
            by_itself = (uniform if draw.kind == "uniform" else normal)(draw.key, step, numbers, draw.per_row)
            assert values is not None and torch.equal(values, by_itself), (step, draw)


def test_large_draws_made_at_once_are_what_each_is_by_itself() -> None:
    per_row = 9001 * torch.get_num_threads()
    draws = [Draw(kind, key_of(0, kind), per_row, ((0, 10),)) for kind in ("uniform", "normal")]
    noise = Noise(torch.device("cpu"))
    for step in range(2):
        noise.begin("a kind of steps")
        made = [noise.draw(draw, torch.tensor(step)) for draw in draws]
    for draw, values in zip(draws, made, strict=True):
        by_itself = (uniform if draw.kind == "uniform" else normal)(draw.key, 1, torch.arange(10), per_row)
        assert values is not None and torch.equal(values, by_itself)


def batch_of(with_noise: bool) -> Rows:
    batch = Rows(24, 1, 0, torch.device("cpu"))
    batch.noise = Noise(torch.device("cpu")) if with_noise else None
    return batch


def test_shares_that_change_in_turn_are_remembered() -> None:
    together, apart = batch_of(True), batch_of(False)
    for step in range(9):
        first, count = [(0, 10), (4, 12), (0, 0)][step % 3]
        drawn = []
        for batch in (together, apart):
            batch.start(step, first, count)
            with Counting() as counted:
                drawn.append([batch.uniform("a", 3), batch.normal("b", 5), batch.uniform_for_all("c", 1)])
            if step > 2 and batch is together:
                assert counted.operations < 50
        assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))


def test_a_step_that_goes_back_to_a_later_part_draws_its_own() -> None:
    together, apart = batch_of(True), batch_of(False)
    for step, part in ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (1, 1), (1, 0), (2, 0)):
        drawn = []
        for batch in (together, apart):
            batch.start(step, 0, 8, part)
            drawn.append(batch.uniform("a", 3).clone())
        assert torch.equal(*drawn), (step, part)
