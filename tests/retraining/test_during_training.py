"""Evaluations while a run trains: abandoned when replicas leave, and done when it goes on."""

import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from mlflow import MlflowClient

from pipelines.evaluate import during_training
from pipelines.storage.location import Location
from service.artifacts import run_checkpoints
from service.tracking.progress import StatusActor
from tests.conftest import train, train_command
from tests.patience import PATIENCE, wait_until
from tests.runs.test_runs import options, run_of


class Evaluations:
    """`validate` of the checkpoints of a folder, with measurements that a test gives."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
        self.measured: list[int] = []
        self.fails: set[int] = set()
        self.status = StatusActor()
        self.folder = Location.of(str(folder))
        for step in steps:
            (self.folder / f"step-{step:08}" / "state.json").write(b"{}")
            (self.folder / f"step-{step:08}" / run_checkpoints.UNMEASURED).write(b"")
        going = SimpleNamespace(remote=self.status.going)
        self._job: Any = SimpleNamespace(folder=str(folder), status=SimpleNamespace(going=going))
        monkeypatch.setattr(ray, "get", lambda found, timeout=None: found)
        monkeypatch.setattr(during_training, "_measure", self._measure)

    def _measure(self, _: Any, step: int) -> dict[str, float]:
        if step in self.fails:
            raise ValueError(step)
        self.measured.append(step)
        run_checkpoints.measured(self.folder, step)
        return {"fid": float(step)}

    def __call__(self, step: int) -> dict[str, float]:
        return during_training.validate(SimpleNamespace(path=f"run/step-{step:08}"), self._job)


def test_what_was_abandoned_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validate = Evaluations(tmp_path, monkeypatch, 2, 4, 6)
    (tmp_path / "step-00000002" / "state.json").unlink()  # Whoever wrote it died in that.
    assert validate(6) == {"fid": 6.0}
    assert validate.measured == [4, 6]
    assert validate(6) == {}, "it has been done"


def test_an_old_evaluation_that_fails_does_not_stop_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = Evaluations(tmp_path, monkeypatch, 2, 4)
    validate.fails = {2}
    assert validate(4) == {"fid": 4.0}
    validate = Evaluations(tmp_path, monkeypatch, 6)
    validate.fails = {6}
    with pytest.raises(ValueError, match="6"):
        validate(6)


def test_it_is_abandoned_when_replicas_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validate = Evaluations(tmp_path, monkeypatch, 2)

    def without_end(*_: Any) -> dict[str, float]:
        validate.status.notice(["a node that is to go"])
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(during_training, "_measure", without_end)
    assert validate(2) == {}
    assert validate(2) == {}, "nor is it begun"
    assert run_checkpoints.unmeasured(validate.folder) == [2]


@pytest.mark.long
def test_a_run_that_leaves_does_not_wait_for_evaluations_and_does_them_later(
    tmp_path: Path, ray_cluster: tuple[str, str]
) -> None:
    words = options(
        tmp_path, "replicas=2", "name=told", "steps=100000", "checkpoints.every=50", "logging.samples_every=50000",
        "evaluation.during_training=true", "evaluation.samples=1700", "checkpoints.keep=1",
    )  # fmt: skip
    command = train_command("digits", *words, address=ray_cluster[0])
    folder = Location.of(str(tmp_path / "told"))
    wait_until(lambda: len(run_checkpoints.unmeasured(folder)) > 1, "evaluations are behind", command)
    command.send_signal(signal.SIGTERM)
    out, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 143, out + err
    last = run_checkpoints.steps(folder)[-1]
    assert last in run_checkpoints.unmeasured(folder), "it left before that"
    resume = ["resume=told", f"storage={tmp_path}", f"steps={last}"]
    code, out, err = train(*resume, address=ray_cluster[0])
    assert code == 0, out + err
    assert run_checkpoints.unmeasured(folder) == []
    client, run_id = run_of(tmp_path, "told")
    assert isinstance(client, MlflowClient)
    measured = [metric.step for metric in client.get_metric_history(run_id, "evaluation/fid")]
    assert measured == [*range(50, last + 1, 50), *([last] if last % 50 else [])], "each once"
