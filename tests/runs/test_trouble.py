"""Damage and trouble are told in one line, without a traceback, and what can be done without is done without."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from pipelines.components import ConfigError, first_line
from pipelines.retrain import __main__ as retrain
from pipelines.retrain.retraining import Retraining
from pipelines.storage.location import Location
from service.artifacts import best, model_cache, registry
from service.configuration.recipe import load
from service.runs.driver import cluster
from service.runs.driver.launch import _introduction
from service.tracking.tracker import TrackingError
from service.train import main
from tests.conftest import called


@pytest.mark.parametrize("left", ['{"recipe": "dig', "", "null", "\x00\x00"])
def test_a_damaged_run_is_told_in_one_line(tmp_path: Path, left: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(left)
    code, out, err = called(main, "resume=run", f"storage={tmp_path}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: resume: {tmp_path}/run/run.json is damaged (")


def test_a_damaged_note_of_a_retraining_says_what_to_delete(tmp_path: Path) -> None:
    (tmp_path / "trained.json").write_text('{"mod')
    plan = Retraining(load("digits"), (), "key", Location.of(str(tmp_path)))
    assert plan.note("begun") is None
    with pytest.raises(ConfigError, match=r"trained\.json is damaged .* delete it"):
        plan.note("trained")


@pytest.mark.parametrize("trouble", [OSError(28, "No space left on device"), PermissionError(13, "no\nmore lines")])
def test_a_retraining_tells_trouble_of_the_system_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: OSError
) -> None:
    def fails(*_: Any) -> None:
        raise trouble

    monkeypatch.setattr(retrain, "planned", fails)
    code, _, err = called(retrain.main, "digits", f"storage={tmp_path}")
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith(f"error: [Errno {trouble.errno}] ")


def test_a_damaged_pointer_to_the_best_points_to_none(tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text('{"step": 4')
    assert best.read(Location.of(str(tmp_path))) is None


def test_a_damaged_note_of_a_fetched_model_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> str:
        raise TrackingError("the server is away")

    monkeypatch.setattr(registry, "version_of", away)
    pointer = tmp_path / hashlib.sha256(b"sqlite:///x").hexdigest()[:12] / "m" / "latest.json"
    pointer.parent.mkdir(parents=True)
    pointer.write_text('{"pl')
    with pytest.raises(TrackingError, match="the server is away"):
        model_cache.pull("models:/m/latest", "sqlite:///x", tmp_path)


def test_a_ray_that_does_not_start_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**_: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen because some of\nthe others")

    monkeypatch.setattr(ray, "init", late)
    code, _, err = called(main, "digits", f"storage={tmp_path}", "cluster.address=local", "name=late")
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith("error: Ray does not start on this machine (The current node timed out during startup.")


def test_as_many_replicas_are_announced_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 1.0}}, {"Alive": True, "Resources": {"CPU": 1.5}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    run = load("digits", ["replicas=4", "cluster.min_replicas=2", "cluster.cpus_per_replica=1"])
    found = cluster.replicas(run)
    assert found.room == 2
    prepared: Any = SimpleNamespace(run=run, manifest=SimpleNamespace(rows=1797))
    assert _introduction(prepared, found).endswith(
        "on 2 replicas of 1 CPU (room for 2 of 4; more join where there is room)"
    )


def test_the_first_line_of_an_error_that_says_nothing_is_its_kind() -> None:
    assert first_line(ValueError("\n  one\ntwo")) == "one"
    assert first_line(TimeoutError()) == "TimeoutError"
