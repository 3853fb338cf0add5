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
from service.runs.driver.failures import FailureCount
from service.runs.driver.signals import Interrupted, Signals
from service.tracking.progress import StatusActor


class Announced(ray.exceptions.RayActorError):  # type: ignore[misc]  # Ray has no types.
    """The death of a replica whose node was announced to go."""

    preempted = True


class Fit:
    """`fit` with replicas that find no room as often as `waits` says, and what it says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, waits: int, told_after: int | None = None) -> None:
        self.said: list[str] = []
        self.signals, self._left, self._told_after = Signals(), waits, told_after
        monkeypatch.setattr(fitting, "_trainer", lambda *_: None)
        monkeypatch.setattr(fitting, "_returned", self._returned)
        monkeypatch.setattr(fitting, "_give_places_back", lambda _: None)
        monkeypatch.setattr(fitting, "placement_group_table", dict)
        monkeypatch.setattr(ray, "get", lambda found: found)

    def _returned(self, *_: Any) -> str:
        if self._left == self._told_after:
            self.signals.caught = ExitCode.TERMINATED
        self._left -= 1
        if self._left < 0:
            return "done"
        raise ControllerError(WorkerGroupStartupTimeoutError(2))

    def __call__(self) -> Any:
        cluster, evaluation = SimpleNamespace(patience_seconds=1, max_failures=0), SimpleNamespace(stop=None)
        run = SimpleNamespace(steps=10, cluster=cluster, evaluation=evaluation)
        scaling = ray.train.ScalingConfig(num_workers=1)
        replicas, prepared = SimpleNamespace(scaling=scaling), SimpleNamespace(run=run, going_on="go on")
        at: Any = SimpleNamespace(prepared=prepared, replicas=replicas)
        none, say = SimpleNamespace(remote=lambda: 0), SimpleNamespace(remote=self.said.append)
        status = SimpleNamespace(leaving=none, failures=none, say=say)
        return fitting.fit(at, lambda _: None, status, None, self.signals)


def test_failures_are_counted_through_all_that_ray_train_is_handed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [fitting._left(3, failures) for failures in (0, 1, 3, 4)] == [3, 2, 0, 0]
    assert fitting._left(-1, 100) == -1
    monkeypatch.setattr(ray, "get", lambda found: found)
    status = StatusActor()
    count = FailureCount(SimpleNamespace(fail=SimpleNamespace(remote=status.fail)))
    count.after_exception(None, {0: ValueError(), 1: RuntimeError()})
    count.after_exception(None, {0: ConnectionError(), 1: Announced()})
    assert status.failures() == 1


def test_only_what_replicas_have_reserved_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    job, other = "01000000", "02000000"
    own, of_the_user, past, elsewhere = ("a1" * 14 + job, "b2" * 14 + job, "c3" * 14 + job, "d4" * 14 + other)
    table = {name: {"state": "REMOVED" if name == past else "CREATED"} for name in (own, of_the_user, past, elsewhere)}
    freed: list[str] = []
    monkeypatch.setattr(fitting, "placement_group_table", lambda: table)
    monkeypatch.setattr(fitting, "remove_placement_group", lambda group: freed.append(group.id.hex()))
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: job))
    fitting._give_places_back({of_the_user})
    assert freed == [own]


def test_waiting_for_room_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = Fit(monkeypatch, waits=3)
    assert fit() == "done"
    assert fit.said == ["waiting for room for the replicas"]


def test_who_waits_for_room_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted, match="go on") as raised:
        Fit(monkeypatch, waits=1000, told_after=998)()
    assert raised.value.code == ExitCode.TERMINATED
