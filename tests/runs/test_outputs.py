"""What rank 0 does about its checkpoints, beside the training."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.storage.location import Location
from service.artifacts import run_checkpoints
from service.runs.on_replica.outputs import RayOutputs


def test_what_follows_a_checkpoint_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise OSError("the storage\nis away")

    monkeypatch.setattr(run_checkpoints, "prune", away)
    said: list[str] = []
    outputs: Any = SimpleNamespace(
        _job=SimpleNamespace(folder=str(tmp_path), status=SimpleNamespace(warn=SimpleNamespace(remote=said.append))),
        _tracker=SimpleNamespace(tag=lambda *_: None),
        _run=SimpleNamespace(checkpoints=SimpleNamespace(keep=1)),
    )
    RayOutputs._published(outputs, Location.of("/x/step-00000010"), None, Location.of(str(tmp_path)))
    assert said == ["/x/step-00000010 is kept, but noting it or deleting older ones failed: the storage is away"]


def test_the_pulse_ends_last() -> None:
    ended, before = threading.Event(), []
    outputs: Any = SimpleNamespace(
        _chief=True, _trace=None, _ended=ended, _deliver=lambda: before.append(ended.is_set())
    )
    RayOutputs.close(outputs)
    assert before == [False] and ended.is_set()


@pytest.mark.parametrize(("leaving", "seconds"), [(True, 10.0), (False, 120.0)])
def test_who_leaves_does_not_wait_long_for_a_server_that_is_away(leaving: bool, seconds: float) -> None:
    waited: list[float] = []

    def close(patience: float) -> int:
        waited.append(patience)
        return 0

    outputs: Any = SimpleNamespace(
        _uploads=[],
        _leaving=leaving,
        _run=SimpleNamespace(tracking=SimpleNamespace(patience_seconds=120.0)),
        _tracker=SimpleNamespace(close=close),
    )
    RayOutputs._deliver(outputs)
    assert waited == [seconds]
