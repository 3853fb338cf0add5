"""Micro-batches: what rows give a few at a time is what they give all at once."""

import pytest
import torch

from pipelines.components import ConfigError
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.replicas.microbatches import split
from service.replicas.rows import RowSet
from tests.processes import run_replicas
from tests.replicas.test_exact import CASES, TRANSLATIONS, Trained, assert_equal, train
from tests.replicas.test_replicas import GROWING

STEPS = 3
_ROW_BY_ROW = ["batch.size=24", "network.critic_batch_norm=false"]
CASES_WITHOUT_STATISTICS = {
    "joint": _ROW_BY_ROW,
    "generator's term kept from the critic": [*_ROW_BY_ROW, "scheme.generator_trains_critic=false"],
    "one look for both networks": [
        *_ROW_BY_ROW, "scheme={name: joint, generator_trains_critic: false, fakes: current, passes: two}",
    ],
    "critic steps, gradient penalty": [
        *CASES["wgan, three critic steps, gradient penalty"], "network.critic_batch_norm=false",
    ],
    "a part of the batch for the critic, R1": [
        *_ROW_BY_ROW, "scheme={name: alternating, critic_batch: 12}", "regularizers=[{name: r1, every: 2}]",
    ],
    "affine instance norms": TRANSLATIONS["stargan, affine instance norms, joint"],
    "pools of two domains": [
        option.replace("switchable", "instance") for option in TRANSLATIONS["cyclegan, pools, switchable norms, gates"]
    ],
}  # fmt: skip
#: Weights that are computed from others at every call; these cannot be summed in one order.
CASES_WITH_MADE_WEIGHTS = {
    "spectral norm": [*_ROW_BY_ROW, "regularizers=[spectral_norm]"],
    "a growing generator": ["batch.size=24", GROWING],
}


@pytest.fixture(scope="module")
def data(digits: Location, digits_at_32: Location) -> dict[int, str]:
    return {16: digits.path, 32: digits_at_32.path}


def at_once(cases: dict[str, list[str]], rows: int) -> dict[str, list[str]]:
    return {name: [*options, f"batch.rows_at_once={rows}"] for name, options in cases.items()}


@pytest.fixture(scope="module")
def exactly(data: dict[int, str]) -> Trained:
    """One replica that takes all of its rows at once."""
    return train(0, 1, data, CASES_WITHOUT_STATISTICS, "float32", STEPS)


def test_the_result_is_that_of_all_rows_at_once(data: dict[int, str]) -> None:
    cases = CASES_WITHOUT_STATISTICS | CASES_WITH_MADE_WEIGHTS
    expected, found = (
        train(0, 1, data, chosen, "float64", STEPS, exact=False) for chosen in (cases, at_once(cases, 5))
    )
    for name, values in expected.items():
        for key, value in values.items():
            if value.dim() > 1:  # Of biases before a norm rounding alone decides.
                torch.testing.assert_close(found[name][key], value, rtol=1e-8, atol=1e-10, msg=f"{name}: {key}")


def test_exact_replicas_give_the_bits_of_all_rows_at_once(data: dict[int, str], exactly: Trained) -> None:
    assert_equal(train(0, 1, data, at_once(CASES_WITHOUT_STATISTICS, 6), "float32", STEPS), exactly)


@pytest.mark.long
def test_on_three_replicas_too(data: dict[int, str], exactly: Trained) -> None:
    assert_equal(run_replicas(3, train, data, at_once(CASES_WITHOUT_STATISTICS, 3), "float32", STEPS), exactly)


@pytest.mark.long
def test_in_bfloat16_too(data: dict[int, str]) -> None:
    expected = train(0, 1, data, CASES_WITHOUT_STATISTICS, "bfloat16", STEPS)
    assert_equal(train(0, 1, data, at_once(CASES_WITHOUT_STATISTICS, 6), "bfloat16", STEPS), expected)


def test_rows_are_split_in_few_lots_and_none_is_left_out() -> None:
    def lots(cells: list[tuple[int, ...]], most: int | None) -> list[list[list[int]]]:
        sets = [RowSet(torch.arange(100, 100 + sum(counts)), 100, counts) for counts in cells]
        return [[rows.numbers.tolist() for rows in lot.rows] for lot in split(sets, most)]

    assert lots([(5,)], None) == lots([(5,)], 5) == [[[100, 101, 102, 103, 104]]]
    assert lots([(5,)], 2) == [[[100]], [[101, 102]], [[103, 104]]]
    assert lots([(4,), (2,)], 2) == [[[100, 101], [100]], [[102, 103], [101]]]
    assert lots([(2, 1, 2)], 3) == [[[100, 101, 102]], [[103, 104]]]  # Cells stay whole.
    rows = RowSet(torch.arange(100, 105), 100, (2, 1, 2))
    assert [lot.rows[0].cells for lot in split([rows], 3)] == [(2, 1, 0), (0, 0, 2)]


def test_what_must_see_all_rows_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"the generator's 2 \(BatchNorm2d\), .* and the critic's .* must see"):
        load("digits", ["batch.rows_at_once=8"])
    without = ["batch.rows_at_once=8", "network.critic_batch_norm=false"]
    with pytest.raises(ConfigError, match="regularizer dragan must see all samples at once"):
        load("digits", [*without, "regularizers=[dragan]"])
    with pytest.raises(ConfigError, match=r"gradients of weights that the critic's 0\.0, .* compute at every call"):
        load("digits", [*without, "exact=true", "regularizers=[spectral_norm]"])
    with pytest.raises(ConfigError, match="8 is less than one of exact replicas' 4 cells, which has 16 samples"):
        load("digits", [*without, "exact=true", "batch.cells=4"])
    assert load("digits", without).recipe_hash == load("digits", without[1:]).recipe_hash
