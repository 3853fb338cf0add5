"""Recipes of the user's own: a file anywhere, a base that it changes, and parts in modules beside it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.components import ConfigError, name_of
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.configuration.tree import dump
from tests.conftest import train

POISSON = '''
"""A critic that counts."""

from torch import Tensor

from service.losses.objectives import Objective, Scores, batch_mean


class Poisson(Objective):
    def generator(self, fake: Scores, real: Scores) -> Tensor:
        return batch_mean(fake.logits.exp() - fake.logits)

    def critic(self, fake: Scores, real: Scores) -> tuple[Tensor, Tensor]:
        return batch_mean(real.logits.exp() - real.logits), batch_mean(fake.logits.exp())
'''
SMALL = "{name: mlp, generator_widths: [16], critic_widths: [16]}"


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Path]:
    """A folder whose modules are forgotten afterwards."""
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    sys.modules.pop("poisson_of_test", None)


def write(file: Path, text: str) -> str:
    file.write_text(text)
    return str(file)


def test_a_file_changes_what_it_says_of_its_base(tmp_path: Path) -> None:
    file = write(
        tmp_path / "mine.yaml",
        "# Mine.\nbase: self-dcgan-mnist\nsteps: 7\nnetwork: {latent_dim: 32}\ndata: {transform: {size: 48}}\n"
        "scheme: {balance: {form: normalised}}\nobjective: lsgan\n",
    )
    mine, base = load(file), load("self-dcgan-mnist")
    expected = dump(base)
    expected |= {"recipe": "mine", "recipe_file": file, "steps": 7, "objective": dump(load("lsgan-mnist"))["objective"]}
    expected["network"] |= {"latent_dim": 32}
    expected["data"]["transform"] |= {"size": 48}
    expected["scheme"]["balance"] |= {"form": "normalised"}
    assert dump(mine) == expected
    assert load(file, ["steps=8"]).steps == 8
    assert mine.model_name == "selfgan-mine"


def test_a_base_may_be_a_file_that_lies_beside(tmp_path: Path) -> None:
    write(tmp_path / "first.yaml", "base: digits\nsteps: 3\nseed: 4\n")
    (tmp_path / "below").mkdir()
    assert load(write(tmp_path / "below" / "second.yaml", "base: ../first.yaml\nsteps: 5\n")).seed == 4


def test_another_part_takes_none_of_the_options_of_the_one_before(tmp_path: Path) -> None:
    run = load(write(tmp_path / "mlp.yaml", "base: digits\nnetwork: mlp\nregularizers: [r1]\n"))
    assert name_of(run.network) == "mlp" and [name_of(one) for one in run.regularizers] == ["r1"]


def test_what_a_dry_run_prints_is_a_recipe(tmp_path: Path) -> None:
    printed = yaml.safe_dump(dump(load("wgan-gp-mnist")))
    again = load(write(tmp_path / "again.yaml", printed))
    assert again.recipe_hash == load("wgan-gp-mnist").recipe_hash and again.recipe == "again"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: digit\n", r"there is no 'digit'; did you mean 'digits'\?"),
        ("base: mine.yaml\n", "a recipe cannot be its own base"),
        ("base: digits\nstep: 3\n", r"mine\.yaml: step: no such key; did you mean 'steps'\?"),
        ("base: digits\nsteps: many\n", r"mine\.yaml: steps: 'many' is not valid"),
        ("base: digits\nobjective: nowhere\n", r"mine\.yaml: objectives: unknown name 'nowhere'"),
        ("steps: 3\n", r"mine\.yaml: data: a value is missing"),
        ("a: [\n", r"mine\.yaml is no YAML: .* line 2"),
        ("just words\n", r"mine\.yaml holds no options"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load(write(tmp_path / "mine.yaml", text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe: .*/none\.yaml cannot be read"):
        load(str(tmp_path / "none.yaml"))


def test_a_part_beside_the_file_is_found_by_its_modules_name(beside: Path) -> None:
    write(beside / "poisson_of_test.py", POISSON)
    run = load(write(beside / "counting.yaml", "base: digits\nobjective: poisson_of_test\n"))
    assert name_of(run.objective) == "poisson_of_test"
    assert dump(run)["objective"] == {"name": "poisson_of_test"}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("def critic(", "def critics(", "objectives: class Poisson of 'poisson_of_test' does not define critic$"),
        (
            "return batch_mean(fake.logits.exp() - fake.logits)",
            "return fake.logits.mean()",
            r"objective poisson_of_test: the loss \(generator\) of 2 batch shards has the shape \(\); return one value",
        ),
        (
            ", batch_mean(fake.logits.exp())",
            ", fake.logits.mean(1)",
            r"objective poisson_of_test: the loss \(critic, fakes\) of 2 batch shards has the shape \(2, 1\)",
        ),
    ],
)
@pytest.mark.parametrize("scheme", ["joint", "alternating"])
def test_a_mistake_in_a_part_is_told_before_anything_trains(
    before: str, after: str, message: str, scheme: str, beside: Path
) -> None:
    assert before in POISSON
    write(beside / "poisson_of_test.py", POISSON.replace(before, after))
    file = write(beside / "mine.yaml", f"base: digits\nobjective: poisson_of_test\nscheme: {scheme}\n")
    with pytest.raises(ConfigError, match=message):
        load(file)


def test_a_recipe_of_ones_own_trains_on_several_processes_and_is_kept_with_the_run(
    ray_cluster: tuple[str, str], beside: Path
) -> None:
    tmp_path = beside
    write(tmp_path / "poisson_of_test.py", POISSON)
    text = f"# Counts.\nbase: digits\nsteps: 2\nobjective: poisson_of_test\nnetwork: {SMALL}\n"
    write(tmp_path / "counting.yaml", text)
    code, out, err = train("counting.yaml", "replicas=2", "name=mine", address=ray_cluster[0], cwd=tmp_path)
    assert code == 0, err
    assert "models:/selfgan-counting/1" in out
    folder = tmp_path / "runs" / "mine"
    assert (folder / "recipe.yaml").read_text() == text
    assert json.loads((folder / "run.json").read_text())["recipe"] == "counting"
    resumed = load(None, ["resume=mine", f"storage={tmp_path / 'runs'}"])  # The run knows where its file lies.
    assert name_of(resumed.objective) == "poisson_of_test"


def test_a_recipe_is_read_from_a_uri(tmp_path: Path) -> None:
    Location.of(str(tmp_path / "far.yaml")).write(b"base: digits\nsteps: 9\n")
    assert load(f"file://{tmp_path / 'far.yaml'}").steps == 9
