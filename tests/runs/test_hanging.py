"""A replica that hangs is found, named and ended, and the run goes on."""

import os
import signal
from pathlib import Path

import psutil
import torch

from service.runs.driver.watchdog import silent, stands_still
from service.tracking.progress import Pulse, Status
from tests.conftest import train_command
from tests.patience import PATIENCE, wait_until
from tests.runs.test_runs import final, options, replicas, train


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


def test_steps_stand_still_when_none_is_done_for_long() -> None:
    assert not stands_still(Status(step=5, moved_at=None), 10, 1000.0, 30), "before the first step there is no measure"
    assert not stands_still(Status(step=5, moved_at=980.0), 10, 1000.0, 30)
    assert stands_still(Status(step=5, moved_at=970.0), 10, 1000.0, 30)
    assert not stands_still(Status(step=10, moved_at=970.0), 10, 1000.0, 30), "the run's end may take its time"


def test_who_is_silent_is_named_but_not_who_is_gone() -> None:
    posted = Status(ready_at=900.0, pulses={0: pulse(0, 999.0), 1: pulse(1, 970.0), 2: pulse(2, 890.0)})
    assert silent(posted, 1000.0, 30) == [pulse(1, 970.0)], "replica 2 is of an earlier attempt"
