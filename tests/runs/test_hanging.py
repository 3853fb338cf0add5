"""A replica that hangs is found, named and ended, and the run goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from service.runs.driver import watchdog
from service.tracking.progress import Pulse, Status, StatusActor
from tests.conftest import train_command
from tests.patience import PATIENCE, wait_until
from tests.runs.test_runs import final, options, replicas, train


@pytest.mark.long
def test_a_stopped_replica_is_ended_and_the_run_goes_on(tmp_path: Path, ray_cluster: tuple[str, str]) -> None:
    code, _, err = train("digits", *options(tmp_path, "replicas=2", "name=whole"), address=ray_cluster[0])
    assert code == 0, err
    words = options(tmp_path, "replicas=2", "name=hung", "cluster.patience_seconds=8")
    command = train_command("digits", *words, address=ray_cluster[0])
    wait_until((tmp_path / "hung" / "step-00000020" / "state.json").exists, "the first checkpoint", command)
    victim = max(replicas(ray_cluster[0]), key=psutil.Process.create_time).pid
    os.kill(victim, signal.SIGSTOP)
    out, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, err
    assert "warning: no step for 8 s: replica " in out
    assert f"(process {victim} on {os.uname().nodename})" in out
    assert "attempt 2" in out or "going on from step" in out
    whole, again = final(tmp_path, "whole"), final(tmp_path, "hung")
    assert all(torch.equal(value, again[key]) for key, value in whole.items())


def pulse(rank: int, at: float) -> Pulse:
    return Pulse(rank, "host", "node", 100 + rank, at)


class Looked:
    """A watchdog with a patience of 30 s for a run of 10 steps, its clock, and whom it has ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.killable = 1000.0, True
        self.ended: list[list[int]] = []
        monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(watchdog, "_end", self.end)
        status = SimpleNamespace(warn=SimpleNamespace(remote=lambda text: None))
        self._watchdog = watchdog.Watchdog(status, 10, 30.0)

    def end(self, pulses: list[Pulse]) -> bool:
        self.ended.append([pulse.rank for pulse in pulses])
        return self.killable

    def after(self, seconds: float, attempts: int, step: int, moved: bool = True) -> int:
        """How often it has ended something, when it has looked again."""
        self.now += seconds
        pulses = {0: pulse(0, self.now - 1), 1: pulse(1, 500.0)}
        moved_at = 0.0 if moved else None
        posted = Status(step=step, attempts=attempts, moved_at=moved_at, pulses=pulses, since=900.0, clock=self.now)
        self._watchdog.look(posted)
        return len(self.ended)


def test_steps_stand_still_when_none_is_done_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    look = Looked(monkeypatch)
    assert look.after(0, 1, 4) == look.after(100, 1, 5) == look.after(29, 1, 5) == 0
    assert look.after(1, 1, 5) == 1
    assert look.ended == [[0]], "replica 1 was of an earlier attempt"
    assert look.after(100, 1, 5) == 1, "once an attempt"
    assert look.after(1, 2, 5) == look.after(29, 2, 5) == 1
    assert look.after(1, 2, 5) == 2
    assert look.after(1, 3, 10) == look.after(100, 3, 10) == 2, "the run's end may take its time"


def test_waiting_for_room_and_the_first_step_are_no_standstill(monkeypatch: pytest.MonkeyPatch) -> None:
    look = Looked(monkeypatch)
    assert look.after(0, 1, 5) == look.after(300, 1, 5, moved=False) == look.after(300, 2, 5, moved=False) == 0
    assert look.after(29, 2, 5) == 0
    status = StatusActor()
    status.start(3)
    status.post(4)
    assert status.read().moved_at is not None
    assert status.leaving() == 1
    assert status.read().moved_at is None


def test_who_could_not_be_killed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    look = Looked(monkeypatch)
    look.killable = False
    assert look.after(0, 1, 5) == 0
    assert look.after(30, 1, 5) == look.after(29, 1, 5) == 1
    assert look.after(1, 1, 5) == 2


def test_a_process_that_is_gone_needs_no_kill() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    watchdog._kill_replica(ended.pid)


def test_who_is_silent_is_named_but_not_who_is_gone() -> None:
    posted = Status(since=900.0, clock=1000.0, pulses={0: pulse(0, 999.0), 1: pulse(1, 970.0), 2: pulse(2, 890.0)})
    assert watchdog.silent(posted, 30) == [pulse(1, 970.0)], "replica 2 is of an earlier attempt"
