"""What a person meets on the command line before anything trains."""

from pathlib import Path

import pytest
import yaml

from pipelines.components import ConfigError
from pipelines.storage.location import join
from service.configuration.config import storage_root
from service.configuration.reading import from_tree
from service.configuration.recipe import load
from service.configuration.tree import dump
from service.runs.driver.cluster import even_share, places
from service.train import main
from tests.conftest import called, train


def test_dry_run_prints_a_configuration_that_gives_the_same_run() -> None:
    code, out, _ = train("self-dcgan-mnist-tpu", "seed=3", "scheme.balance=loss", "--dry-run")
    assert code == 0
    run = from_tree(yaml.safe_load(out))
    assert run == load("self-dcgan-mnist-tpu", ["seed=3", "scheme.balance=loss"])
    assert (run.seed, run.batch.shards) == (3, 8)


MISTAKES = [
    (["digit"], "recipe: there is no 'digit'; did you mean 'digits'?"),
    (["digits", "stepps=1"], "stepps: no such key; did you mean 'steps'?"),
    (
        ["digits", "optimizer.lr=1"],
        "optimizer.lr: no such key; known: betas, critic_learning_rate, decay, eps, learning_rate, name",
    ),
    (["digits", "balance=loss"], "balance: no such key; did you mean 'scheme.balance'?"),
    (["digits", "scheme=jont"], "schemes: unknown name 'jont'; did you mean 'joint'?"),
    (["digits", "scheme=alternating", "scheme.balance=loss"], "scheme.balance: no such key"),
    (["digits", "steps=many"], "steps: 'many' is not valid"),
    (["digits", "batch.shards=7"], "batch.shards: 7 does not divide batch.size, 64"),
    (["digits", "data.transform.size=28"], "network dcgan needs sides that 8 divides, not 28x28"),
    (["digits", "regularizers=5"], "regularizers: a name is missing"),
    (["digits", "regularizers=[r1, r1]"], "regularizers: 'r1' is there twice"),
    (["cyclegan", "data.domains.1.shards=x"], "data.domains.1.shards: '1' is none of its items, 0 to 0"),
    (["digits", "task=unpaired", "network=resnet", "data.transform.size=32"], "takes 1 more data sets"),
    (["digits", "task=paired", "network=resnet", "data.transform.size=32"], "data.source digits has no pairs"),
    (["digits", "network=mlp", "network.generator_widths=[]"], "network.generator_widths: [] is not valid"),
    (
        ["digits", "network=unet"],
        "network unet makes images of images, and this task has none to give it; set task",
    ),
    (["digits", "objective=wgan"], "scheme.balance loss: the losses of objective wgan may be negative"),
    (
        ["digits", "objective={name: bce, real_target: [0.9, 1.1]}"],
        "real_target must be two numbers above 0",
    ),
    (["digits", "steps"], "'steps': options are written key=value"),
    (["digits", "data.source=idx"], "data.source.uri: a value is missing"),
    (
        ["digits", "batch.size=2", "replicas=3"],
        "replicas: 3 replicas cannot share a batch of 2; set replicas=2 or",
    ),
    (["self-gan-mnist", "batch.size=8", "batch.shards=8"], "batch.size: 8 leaves fewer than two samples"),
    (["digits", "network.dropout=2"], "network: cannot be built with these options: dropout probability"),
    (["digits", "network="], "networks: a name is missing"),
    (["digits", "optimizer.betas=[0.5,2]"], "optimizer.betas.1: 2 is not valid"),
    (["digits", "optimizer.betas=[0.5]"], "optimizer.betas: [0.5] has too few values; give 2\n"),
    (["digits", "optimizer.betas=[]"], "optimizer.betas: [] has too few values; give 2\n"),
    (["digits", "storage=/proc/nowhere"], "storage: /proc/nowhere cannot be written to"),
    (["digits", "tracking.uri=nosuch://x"], "tracking.uri: nosuch://x"),
    (["resume=nothing"], "resume: there is no run 'nothing' in"),
    (["self-gan-mnist", "data.source.uri=/nowhere"], "data.source.uri: '/nowhere' does not exist"),
    (["digits", "tracking.uri=http://127.0.0.1:1"], "tracking.uri: no MLflow server answers at"),
    (["digits", "storage=gs3://bucket"], "gs3://bucket"),
]


@pytest.mark.parametrize(
    ("words", "says"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], says: str, tmp_path: Path, ray_cluster: tuple[str, str]
) -> None:
    storage = [] if any(word.startswith("storage=") for word in words) else [f"storage={tmp_path / 'runs'}"]
    code, out, err = called(main, *words, *storage, address=ray_cluster[0])
    assert code == 2, err
    assert err.count("\n") == 1, err
    assert says in err
    assert out.strip() == ""
    assert not list(tmp_path.glob("runs/digits*")), "a refused run leaves nothing behind"


def test_resuming_an_unknown_run_names_those_that_are_there(tmp_path: Path) -> None:
    words = ["resume=digits-20", f"storage={tmp_path}"]
    with pytest.raises(ConfigError, match=r"there is no run 'digits-20' in .*; there are no runs; storage="):
        load(None, words)
    for name in ("digits-20260101", "mine", "no-run"):
        (tmp_path / name).mkdir()
        if name != "no-run":
            (tmp_path / name / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="did you mean 'digits-20260101'"):
        load(None, words)
    with pytest.raises(ConfigError, match=r"known: digits-20260101, mine$"):
        load(None, ["resume=another", f"storage={tmp_path}"])


def test_the_command_itself_ends_with_that_line_and_that_code(tmp_path: Path) -> None:
    code, out, err = train("digits", "stepps=1", f"storage={tmp_path}")
    assert (code, out) == (2, "")
    assert err == "error: stepps: no such key; did you mean 'steps'?\n"


def test_a_submitted_job_writes_where_ray_does_not_clean_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage_root("runs") == str(tmp_path / "runs")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert storage_root("runs") == str(Path.home() / "runs")
    assert storage_root("/data/runs") == "/data/runs"
    assert storage_root("s3://bucket/runs/") == "s3://bucket/runs"


def test_a_part_from_outside_the_project_is_found_by_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_losses").mkdir()
    (tmp_path / "my_losses" / "scaled.py").write_text(
        "from service.losses.objectives.bce import BinaryCrossEntropy\n"
        "class Scaled(BinaryCrossEntropy):\n"
        "    factor: float = 2.0\n"
        "    def generator(self, fake, real):\n"
        "        return self.factor * super().generator(fake, real)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = load("digits", ["objective=my_losses.scaled", "objective.factor=3"])
    assert dump(run)["objective"].items() >= {"name": "my_losses.scaled", "factor": 3.0}.items()
    assert from_tree(dump(run)) == run
    with pytest.raises(ConfigError, match="no module 'my_losses"):
        load("digits", ["objective=my_losses.other"])


def test_an_item_of_a_list_is_set_by_its_number() -> None:
    run = load("digits", ["regularizers=[r1]", "regularizers.0.weight=3"])
    assert dump(run)["regularizers"] == [{"name": "r1", "weight": 3.0, "every": 16}]
    assert load("digits", ["regularizers=r1"]) == load("digits", ["regularizers=[r1]"])


def test_a_part_is_chosen_before_its_options_whatever_their_order() -> None:
    one, other = (load("digits", words) for words in (
        ["network.batch_norm=false", "network=mlp"], ["network=mlp", "network.batch_norm=false"]
    ))  # fmt: skip
    assert one == other
    assert dump(one)["network"]["batch_norm"] is False


def test_replicas_are_shared_out_over_machines() -> None:
    assert even_share([4.0, 4.0], 1) == 4
    assert even_share([6.0, 2.0], 2) == 3
    assert even_share([4.0, 4.0], 3) == 2
    assert even_share([2.0], 5) == 1
    assert places([4.0, 3.0], 2.0) == 3
    assert places([2.0], 0.5) == 4


def test_names_are_joined_to_uris_before_their_options() -> None:
    assert join("/data/runs", "a") == "/data/runs/a"
    assert join("s3://bucket/runs/", "a") == "s3://bucket/runs/a"
    assert join("s3://bucket/runs?scheme=http", "a") == "s3://bucket/runs/a?scheme=http"
    assert storage_root("file:///data/runs") == "/data/runs"
