"""Replicas that die before they train: the run starts again, though Ray Train gives it up, and finds room."""

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import train_command
from tests.patience import PATIENCE, wait_until
from tests.runs.test_runs import options, replicas


@pytest.mark.long
def test_a_replica_that_dies_while_it_starts_is_started_again(tmp_path: Path, ray_cluster: tuple[str, str]) -> None:
    """Three of the cluster's four places are taken: what the dead ones have reserved must be free again."""
    words = options(tmp_path, "replicas=3", "name=early", "steps=10", "logging.samples_every=10")
    command = train_command("digits", *words, address=ray_cluster[0])
    wait_until(lambda: list(replicas(ray_cluster[0])), "the first replica is there", command)
    os.kill(next(replicas(ray_cluster[0])).pid, signal.SIGKILL)
    out, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, err
    assert "done: 10 steps" in out
