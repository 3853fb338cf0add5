"""What the driver does when replicas end, or find no room, after it was told to stop."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError

from pipelines.exit_codes import ExitCode
from service.runs.driver import fitting
from service.runs.driver.signals import Interrupted, Signals


class Fit:
    """`fit` with replicas that find no room as often as `waits` says, and what it says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, waits: int, told_after: int | None = None) -> None:
        self.said: list[str] = []
        self.signals, self._left, self._told_after = Signals(), waits, told_after
        monkeypatch.setattr(fitting, "_trainer", lambda *_: None)
        monkeypatch.setattr(fitting, "_returned", self._returned)
        monkeypatch.setattr(fitting, "_give_places_back", lambda: None)
        monkeypatch.setattr(ray, "get", lambda found: found)

    def _returned(self, *_: Any) -> str:
        if self._left == self._told_after:
            self.signals.caught = ExitCode.TERMINATED
        self._left -= 1
        if self._left < 0:
            return "done"
        raise ControllerError(WorkerGroupStartupTimeoutError(2))

    def __call__(self) -> Any:
        run = SimpleNamespace(steps=10, cluster=SimpleNamespace(patience_seconds=1, max_failures=0))
        scaling = ray.train.ScalingConfig(num_workers=1)
        replicas, prepared = SimpleNamespace(scaling=scaling), SimpleNamespace(run=run, going_on="go on")
        at: Any = SimpleNamespace(prepared=prepared, replicas=replicas)
        leaving, say = SimpleNamespace(remote=lambda: 0), SimpleNamespace(remote=self.said.append)
        status = SimpleNamespace(leaving=leaving, say=say)
        return fitting.fit(at, lambda _: None, status, None, self.signals)


def test_waiting_for_room_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = Fit(monkeypatch, waits=3)
    assert fit() == "done"
    assert fit.said == ["waiting for room for the replicas"]


def test_who_waits_for_room_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted, match="go on") as raised:
        Fit(monkeypatch, waits=1000, told_after=998)()
    assert raised.value.code == ExitCode.TERMINATED
