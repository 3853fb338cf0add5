"""Micro-batches: what rows give a few at a time is what they give all at once."""

import pytest
import torch

from pipelines.components import ConfigError
from service.configuration.recipe import load
from service.replicas.microbatches import split
from service.replicas.row_sets import RowSet
from tests.processes import run_replicas
from tests.replicas.test_exact import CASES, TRANSLATIONS, Trained, assert_equal, train

STEPS = 3
_STAR = [option for option in TRANSLATIONS["stargan, affine instance norms, joint"] if "scheme" not in option]
#: Networks that look at each row alone, which exact replicas take in micro-batches too.
ROW_BY_ROW = {
    "joint": [*_STAR, "scheme={name: joint, balance: validity}"],
    "generator's term kept from the critic, R1 and R2": [
        *_STAR, "scheme={name: joint, generator_trains_critic: false, fakes: current}",
        "regularizers=[{name: r1, every: 1}, {name: r2, every: 1}]",
    ],
    "critic steps, gradient penalty": [
        *_STAR, "scheme={name: alternating, order: critic_first, critic_steps: 2}", "regularizers=[gradient_penalty]",
    ],
    "half of the batch for the critic, R1": [
        *_STAR, "scheme={name: alternating, critic_batch: 5}", "regularizers=[{name: r1, every: 2}]",
    ],
    "adaptive augmentation": [
        *_STAR, "scheme={name: joint, balance: validity}",
        "regularizers=[{name: ada, every: 1, images: 100, probability: 0.5}]",
    ],
    "pools of two domains": [
        option.replace("switchable", "instance") for option in TRANSLATIONS["cyclegan, pools, switchable norms, gates"]
    ],
}  # fmt: skip
#: Layers that look at the batch, and weights that are computed at every call.
LOOKING = {
    **{name: options for name, options in CASES.items() if "gradient penalty" not in name and "DRAGAN" not in name},
    "spectral norm, DRAGAN": [
        "batch.size=24", "network.critic_batch_norm=false", "regularizers=[spectral_norm, dragan]",
    ],
}  # fmt: skip


def at_once(cases: dict[str, list[str]], rows: int) -> dict[str, list[str]]:
    return {name: [*options, f"batch.rows_at_once={rows}"] for name, options in cases.items()}


@pytest.fixture(scope="module")
def exactly(data: dict[int, str]) -> Trained:
    """One replica that takes all of its rows at once."""
    return train(0, 1, data, ROW_BY_ROW, "float32", STEPS)


def test_the_result_is_that_of_all_rows_at_once(data: dict[int, str]) -> None:
    cases = ROW_BY_ROW | LOOKING
    expected, found = (
        train(0, 1, data, chosen, "float64", STEPS, exact=False) for chosen in (cases, at_once(cases, 4))
    )
    for name, values in expected.items():
        for key, value in values.items():  # Running statistics, spectral norm's vectors and losses too.
            if key.endswith(".bias"):  # Of those before a norm rounding alone decides.
                continue
            apart = (found[name][key].double() - value.double()).abs().max()
            assert apart <= 1e-8 * value.double().abs().max(), f"{name}: {key}"


def test_exact_replicas_give_the_bits_of_all_rows_at_once(data: dict[int, str], exactly: Trained) -> None:
    assert_equal(train(0, 1, data, at_once(ROW_BY_ROW, 3), "float32", STEPS), exactly)


@pytest.mark.long
def test_on_three_replicas_too(data: dict[int, str], exactly: Trained) -> None:
    assert_equal(run_replicas(3, train, data, at_once(ROW_BY_ROW, 3), "float32", STEPS), exactly)


@pytest.mark.long
def test_in_bfloat16_too(data: dict[int, str]) -> None:
    expected = train(0, 1, data, ROW_BY_ROW, "bfloat16", STEPS)
    assert_equal(train(0, 1, data, at_once(ROW_BY_ROW, 3), "bfloat16", STEPS), expected)


def test_rows_are_split_in_few_lots_and_none_is_left_out() -> None:
    def lots(cells: list[tuple[int, ...]], most: int | None) -> list[list[list[int]]]:
        sets = [RowSet(torch.arange(100, 100 + sum(counts)), 100, counts) for counts in cells]
        return [[rows.numbers.tolist() for rows in lot.rows] for lot in split(sets, most)]

    assert lots([(5,)], None) == lots([(5,)], 5) == [[[100, 101, 102, 103, 104]]]
    assert lots([(5,)], 2) == [[[100]], [[101, 102]], [[103, 104]]]
    assert lots([(4,), (2,)], 2) == [[[100, 101], [100]], [[102, 103], [101]]]
    assert lots([(4, 0, 3)], 3) == [[[100, 101, 102, 103]], [[104, 105, 106]]]  # None is empty.
    assert lots([(2, 1, 2)], 3) == [[[100, 101, 102]], [[103, 104]]]  # Cells stay whole.
    rows = RowSet(torch.arange(100, 105), 100, (2, 1, 2))
    assert [lot.rows[0].cells for lot in split([rows], 3)] == [(2, 1, 0), (0, 0, 2)]


def test_what_cannot_be_split_is_refused_by_name() -> None:
    few = ["batch.rows_at_once=8"]
    with pytest.raises(ConfigError, match=r"with exact replicas, the generator's 2 \(BatchNorm2d\), .* must see all"):
        load("digits", [*few, "exact=true"])
    with pytest.raises(ConfigError, match=r"the dragan regularizer, the critic's image\.6 \(BatchNorm2d\), .* must"):
        load("digits", [*few, "regularizers=[dragan]"])
    exact = [*few, "data.source=digits", "data.domains=[{source: digits}]", "batch.size=32", "exact=true"]
    with pytest.raises(ConfigError, match=r"the generator's a_to_b\.19, .* compute at every call"):
        load("cyclegan", exact)
    with pytest.raises(ConfigError, match=r"weights that the critic's b\.body\.0, .* compute at every call"):
        load("cyclegan", [*exact, "network.upsampling=transposed", "regularizers=[spectral_norm]"])
    normed = ["network={name: mlp, batch_norm: false}", "regularizers=[{name: spectral_norm, generator: true}]"]
    with pytest.raises(
        ConfigError, match=r"weights that the generator's 0, 2, .* compute at every call; set it to null"
    ):
        load("digits", [*few, "exact=true", *normed])
    load("digits", ["batch.rows_at_once=64", "exact=true"])  # Nothing is split.
    assert load("digits", few).recipe_hash == load("digits", []).recipe_hash
