"""The ``selfgan`` command: a word for everything, help that fits a terminal, and mistakes told at the start."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.components import names
from pipelines.exit_codes import ExitCode
from service.configuration.recipe_texts import recipes
from service.interface.command import main
from service.interface.parts import FAMILIES
from tests.conftest import ROOT

SELFGAN = [sys.executable, "-c", "from service.interface.command import run; run()"]
COMMANDS = ["train", "generate", "export", "recipes", "parts", "ingest", "inspect", "verify", "evaluate", "promote",
            "retrain"]  # fmt: skip


def said(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``selfgan WORDS``, in this process."""
    try:
        code = main(shlex.split(words))
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        code = ended.code
    return code, *capsys.readouterr()


def test_help_names_every_command_and_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said("--help", capsys)
    assert code == 0 and len(out.splitlines()) <= 24
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ") and "selfgan" not in line] == COMMANDS


@pytest.mark.parametrize("words", ["", *COMMANDS])
def test_help_fits_80_columns_and_has_an_example(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = said(f"{words} --help", capsys)
    assert code == 0
    assert [line for line in out.splitlines() if len(line) > 80] == []
    if words not in ("recipes", "parts", "inspect", "verify"):
        assert "example" in out or "selfgan train" in out


def test_train_help_shows_the_recipes_own_values(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said("train digits --help", capsys)
    assert code == 0
    for option in (
        "steps=5000", "data.transform.size=16", "data.transform.channels=1", "network=dcgan", "scheme=joint",
        "task=unconditional", "objective=bce", "optimizer=adam", "network.generator_channels=32", "replicas=1",
    ):  # fmt: skip
        assert f" {option} " in out.replace("\n", " "), option
    _, other, _ = said("train wgan-gp-mnist --help", capsys)
    assert "scheme=alternating " in other and "objective=wgan " in other


def test_recipes_lists_all_and_shows_one(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said("recipes", capsys)
    listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line[2] != " "]
    assert sorted(listed) == sorted(recipes())
    assert listed[:2] == ["digits", "digits-classic"]
    assert listed.index("self-wgan-mnist") == listed.index("wgan-mnist") + 1
    assert all(len(line) < 80 for line in out.splitlines())
    _, out, _ = said("recipes digits", capsys)
    assert out == (ROOT / "service" / "recipes" / "digits.yaml").read_text()


@pytest.mark.parametrize("family", [family.key for family in FAMILIES])
def test_parts_lists_every_part_with_its_options(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    package = next(one.package for one in FAMILIES if one.key == family)
    for word in (family, family.rpartition(".")[2].removesuffix("s"), package.rpartition(".")[2]):
        code, out, _ = said(f"parts {word}", capsys)
        assert code == 0
        listed = [line.split()[0] for line in out.splitlines() if line.startswith(f"  {family}=")]
        assert listed == [f"{family}={name}" for name in names(package)]
    _, everything, _ = said("parts", capsys)
    assert f"  {family}= " in everything and all(len(line) < 80 for line in everything.splitlines())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "trian: no such command; did you mean 'train'?"),
        ("train digits --steps 50", "--steps: options are written key=value, without dashes: steps=50"),
        ("train digits --batch-size=50", "--batch-size=50: options are written key=value"),
        ("train digits seed=1 seed=2", "seed: is given twice"),
        ("train digits steps=true", "steps: true is not valid: expected a value"),
        ("train digits optimizer.learning_rate=inf", "optimizer.learning_rate: 'inf' is not valid"),
        ("train digits optimizer.learning_rate=.nan", "optimizer.learning_rate: nan is not valid"),
        ("train digits tracking.model=a/b", "tracking.model: 'a/b' is not valid: input should hold no '/'"),
        ("train digits tracking.uri=nosuch://x", "tracking.uri: nosuch://x is no MLflow server"),
        ("train digits storage=http://x/y", "storage: http://x/y is on no known file system"),
        ("train digits storage=s3://", "storage: s3:// names no bucket"),
        ("train digits data.shards=s3://", "data.shards: s3:// names no bucket"),
        ("train digits loader.cache=s3://bucket/x", "loader.cache: s3://bucket/x is no folder"),
        ("train digits name=..", "name: '..' is not valid"),
        ("train digits \"start_from=''\"", "start_from: '' is not valid: input should not be empty"),
        ("train self-gan-mnist network.generator_widths=[0]", "network.generator_widths.0: 0 is not valid"),
        ("train digits scheme.balance.fake_share=-1", "scheme.balance.fake_share: -1 is not valid"),
        ("evaluate digits models:/selfgan-digits --samples 10", "--samples: options are written key=value"),
        ("promote digits models:/selfgan-digits/1 --steps 1", "--steps: options are written key=value"),
        ("retrain digits --steps 1", "--steps: options are written key=value"),
        ("ingest digits --shards x", "--shards: options are written key=value, without dashes: shards=x"),
        ("parts losses", "losses: no such family"),
        ("recipes digit", "recipe: there is no 'digit'; did you mean 'digits'?"),
        ("generate --model nothing --out x.png", "'nothing' names no model"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_at_the_start(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(words, capsys)
    assert (code, out) == (ExitCode.USER_ERROR, "")
    assert err.startswith(f"error: {message}") and err.count("\n") == 1, err


def test_generating_without_a_tracking_database_creates_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, out, err = said("generate --model models:/selfgan-digits/latest --out x.png --cache cache", capsys)
    assert (code, out) == (ExitCode.USER_ERROR, "")
    assert err == (
        f"error: models:/selfgan-digits/latest: there is no tracking database {tmp_path}/runs/mlflow.db; "
        "train first, or name the server or database that has it\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["train", "--help"], ["recipes"], ["train", "digits", "--dry-run"]])
def test_output_into_a_closed_pipe_ends_quietly(words: list[str]) -> None:
    command = subprocess.Popen([*SELFGAN, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert command.stdout is not None and command.stderr is not None
    command.stdout.close()
    assert command.stderr.read() == ""
    assert command.wait() == ExitCode.NOBODY_READS


@pytest.mark.parametrize(
    "command",
    [
        ["service/train.py"], ["service/generate.py"], ["-m", "pipelines"], ["-m", "pipelines.evaluate"],
        ["-m", "pipelines.promote"], ["-m", "pipelines.retrain"], ["-m", "pipelines.rayjob"],
    ],
)  # fmt: skip
def test_the_spellings_of_manifests_and_jobs_stay(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python ") and done.stderr == ""


def test_the_installed_command_is_this_one() -> None:
    installed = Path(sys.executable).with_name("selfgan")
    done = subprocess.run([installed, "--version"], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.startswith("selfgan ")
