"""Retraining from the command line: new data or none, killed and started again, held, and reported."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.exit_codes import ExitCode
from pipelines.retrain.__main__ import main
from service.artifacts import registry
from tests.conftest import RAY_ENVIRONMENT, ROOT, called
from tests.made_data import write_idx
from tests.patience import PATIENCE, wait_until
from tests.runs.test_registry import logged_model

TINY = [
    "network.generator_channels=4", "network.critic_channels=4", "steps=6", "batch.size=8", "logging.every=3",
    "checkpoints.every=3", "logging.samples_every=6", "checkpoints.score_images=16",
    "evaluation.samples=40", "evaluation.features.name=classifier", "evaluation.features.steps=10", "replicas=1",
    "cluster.cpus_per_replica=1", "promotion.least_recall=0", "promotion.least_coverage=0",
    "promotion.least_class_coverage=0", "retraining.patience_seconds=3",
]  # fmt: skip


class Nights:
    """One recipe that is retrained again and again."""

    def __init__(self, folder: Path, address: str) -> None:
        self.storage, self.address = folder / "storage", address
        self.data, self.home = folder / "mnist", str(folder)
        self.uri = f"sqlite:///{self.storage}/mlflow.db"
        write_idx(self.data, count=80)

    def words(self, *more: str) -> list[str]:
        return ["digits", f"storage={self.storage}", "data.source=idx", f"data.source.uri={self.data}", *TINY, *more]

    def command(self, *words: str) -> subprocess.Popen[str]:
        """In a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.retrain", *self.words(*words)],
            cwd=ROOT,
            env={**os.environ, **RAY_ENVIRONMENT, "RAY_ADDRESS": self.address, "HOME": self.home},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def retrain(self, *words: str) -> tuple[int, str]:
        code, out, err = called(main, *self.words(*words), address=self.address, HOME=self.home)
        return code, out + err

    def versions(self) -> int:
        return len(MlflowClient(self.uri).search_model_versions("name = 'selfgan-digits'"))

    @property
    def champion(self) -> str | None:
        return registry.pointed("selfgan-digits", "champion", self.uri)

    def note(self, name: str) -> Path | None:
        found = sorted(self.storage.glob(f"retrainings/*/*/{name}"), key=lambda file: file.stat().st_mtime)
        return found[-1] if found else None


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, ray_cluster: tuple[str, str]) -> Nights:
    return Nights(tmp_path_factory.mktemp("nights"), ray_cluster[0])


def test_the_first_model_is_promoted_and_the_same_data_are_nothing_new(nights: Nights) -> None:
    code, said = nights.retrain()
    assert code == ExitCode.PROMOTED, said
    assert "promoted: there is no champion yet" in said
    assert nights.champion == "1" and nights.versions() == 1
    before = {file: file.stat().st_mtime for file in nights.storage.rglob("step-*")}
    process = nights.command()
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.NOTHING_NEW, err
    assert "nothing new: digits was trained on version 1" in out and err == ""
    assert nights.versions() == 1
    assert {file: file.stat().st_mtime for file in nights.storage.rglob("step-*")} == before, "it has trained again"


def test_new_data_are_trained_on_and_what_is_not_better_is_held(nights: Nights) -> None:
    write_idx(nights.data, count=96)
    began = time.time()
    code, said = nights.retrain("promotion.errors=1000")
    assert code == ExitCode.HELD, said
    first_step = re.search(r"first step after ([\d.]+) s", said)
    assert first_step and float(first_step[1]) <= time.time() - began, "counted from the command's start"
    assert "held: not clearly better" in said
    assert nights.champion == "1" and nights.versions() == 2
    assert registry.pointed("selfgan-digits", "challenger", nights.uri) == "2"
    report = nights.note("report.md")
    assert report is not None
    text = report.read_text()
    assert text.startswith("# digits: held\n")
    assert "96 images" in text and "| champion |" in text and "![champion](champion.png)" in text
    for picture in ("candidate.png", "champion.png", "curves.png"):
        assert (report.parent / picture).exists()
    run_id = registry.run_of("selfgan-digits", "2", nights.uri)
    files = {file.path for file in MlflowClient(nights.uri).list_artifacts(run_id, "report")}
    assert files == {f"report/{name}" for name in ("candidate.png", "champion.png", "curves.png", "report.md")}
    # The champion has been measured on the new data too, in the same way.
    both = [registry.tags_of("selfgan-digits", version, nights.uri) for version in ("1", "2")]
    assert both[0]["evaluation.fingerprint"] == both[1]["evaluation.fingerprint"]
    assert both[1]["promotion.verdict"] == "held" and both[1]["git.commit"]
    server = MlflowClient(nights.uri)
    page = server.get_model_version("selfgan-digits", "2").description
    assert re.search(
        r"## Figures\n\nOf .*\| fid \| lower \| [\d.]+ \|.*## Promotion\n\n\*\*held\*\*: not", page, re.DOTALL
    )
    models = [logged_model(server, "selfgan-digits", version) for version in ("1", "2")]
    assert models[1].tags["promotion.verdict"] == "held"
    measured = [{(one.key, one.dataset_digest) for one in model.metrics} for model in models]
    assert ("evaluation/fid", both[1]["manifest.hash"]) in measured[0] & measured[1], "on the same data"


@pytest.mark.parametrize("stage", ["begun.json", "trained.json"])
@pytest.mark.long
def test_killed_at_any_stage_it_goes_on_and_registers_once(nights: Nights, stage: str) -> None:
    if not nights.versions():  # Where this test runs without those before it, there is no champion yet.
        assert nights.retrain()[0] == ExitCode.PROMOTED
    count = {"begun.json": 112, "trained.json": 128}[stage]
    write_idx(nights.data, count=count)
    before, known = nights.versions(), set(nights.storage.glob(f"retrainings/*/*/{stage}"))
    process = nights.command("retraining.start=champion")
    wait_until(lambda: set(nights.storage.glob(f"retrainings/*/*/{stage}")) != known, stage, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, said = nights.retrain("retraining.start=champion")
    assert code in (ExitCode.PROMOTED, ExitCode.HELD), said
    assert nights.versions() == before + 1
    begun = nights.note("begun.json")
    assert begun is not None and json.loads(begun.read_text())["champion"] is not None
    code, said = nights.retrain("retraining.start=champion")
    assert code == ExitCode.NOTHING_NEW, said


def test_mistakes_are_the_users(nights: Nights) -> None:
    code, said = nights.retrain("name=mine")
    assert code == ExitCode.USER_ERROR and "a retraining names its runs by itself" in said
    code, said = nights.retrain("stepps=1")
    assert code == ExitCode.USER_ERROR and "did you mean 'steps'?" in said
