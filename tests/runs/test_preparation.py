"""What a run leaves in MLflow, and says, when it does not start or the storage goes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.storage.location import Location
from service.artifacts import run_checkpoints
from service.configuration.recipe import load
from service.runs.driver.launch import _last
from service.runs.driver.preparation import Prepared, _give_up
from service.tracking import tracker
from service.train import main
from tests.conftest import called


def prepared(folder: Path, *words: str) -> Prepared:
    manifest: Any = SimpleNamespace(hash="0", rows=1)
    run = load("digits", [f"storage={folder}", *words])
    return Prepared(run, f"{folder}/mine", "data", manifest, f"sqlite:///{folder}/mlflow.db")


def started(at: Prepared) -> str:
    return tracker.start_run(at.tracking_uri, "selfgan", "mine", at.folder, {}, {}, None, resume=False)


def test_only_a_run_that_this_command_has_created_is_discarded(tmp_path: Path) -> None:
    new = prepared(tmp_path)
    first, second = started(new), started(new)
    _give_up(new, first)
    old = Prepared(new.run.model_copy(update={"resume": "mine"}), new.folder, "data", new.manifest, new.tracking_uri)
    _give_up(old, second)
    client = MlflowClient(new.tracking_uri)
    assert client.get_run(first).info.lifecycle_stage == "deleted"
    kept = client.get_run(second).info
    assert (kept.lifecycle_stage, kept.status) == ("active", "FAILED")


def test_what_to_do_next_is_said_though_the_storage_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: Location) -> list[int]:
        raise OSError("the storage is away")

    monkeypatch.setattr(run_checkpoints, "steps", away)
    at = prepared(tmp_path)
    assert at.going_on == f"{at.resume} goes on with it"
    assert _last(at) == f"in {tmp_path}/mine"


def test_a_storage_that_goes_away_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise OSError("When listing objects: timed out\nand more")

    monkeypatch.setattr("service.runs.driver.launch.launch", away)
    assert called(main, "digits", f"storage={tmp_path}") == (1, "", "error: When listing objects: timed out\n")
