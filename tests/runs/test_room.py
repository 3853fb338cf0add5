"""Runs on fewer replicas than they ask for: they begin again on more when there is room, and do no step twice."""

import re
import signal
from pathlib import Path

import pytest
import torch

from benchmarks.clusters import holders, nodes
from service.runs.driver.room import SETTLE_SECONDS, Growth, further
from service.tracking.progress import StatusActor
from tests.conftest import train_command
from tests.patience import PATIENCE, wait_until
from tests.runs.test_runs import final, train
from tests.runs.test_stopping import endless, logged


def test_a_replica_finds_room_on_one_node() -> None:
    each = {"CPU": 1.0, "GPU": 1.0}
    assert further([{"CPU": 4.0, "GPU": 2.0}, {"CPU": 4.0}, {"CPU": 0.5, "GPU": 1.0}, {}], each) == 2
    assert further([{"CPU": 0.3}, {"CPU": 0.1}], {"CPU": 0.1}) == 4
    assert further([], each) == 0


def test_it_is_time_when_the_room_has_settled() -> None:
    growth, later = Growth(4), SETTLE_SECONDS
    assert not growth.due(0, 1, 2, 0)
    assert not growth.due(10, 1, 2, 1)
    assert not growth.due(9 + later, 1, 2, 1)
    assert not growth.due(10 + later, 1, 2, 2), "one more has come"
    assert not growth.due(30 + later, 2, 2, 2), "another attempt has begun"
    assert growth.due(30 + 2 * later, 2, 2, 2)
    assert not growth.due(100 + 2 * later, 3, 4, 9), "as many as the run asks for"


def test_what_ray_did_not_give_is_not_asked_for_again() -> None:
    growth, later = Growth(4), SETTLE_SECONDS
    assert not growth.due(0, 1, 2, 1)
    assert growth.due(later, 1, 2, 1)
    assert not growth.due(100, 2, 2, 1) and not growth.due(100 + later, 2, 2, 1)
    assert not growth.due(200, 2, 2, 2)
    assert growth.due(200 + later, 2, 2, 2), "there is more room than was asked for"
    assert not growth.due(300, 3, 2, 0), "it has gone"
    assert not growth.due(400, 3, 2, 1)
    assert growth.due(400 + later, 3, 2, 1)


def test_only_the_attempt_that_was_asked_leaves_for_room() -> None:
    status = StatusActor()
    status.start(0, 2)
    assert status.leave() is None
    status.grow(1)
    assert status.leave() == "room"
    status.ask()
    assert status.leave() == "asked"
    status = StatusActor()
    status.start(0, 2)
    status.start(0, 2)
    status.grow(1)
    assert status.leave() is None
    status.grow(2)
    status.start(0, 4)
    assert status.leave() is None


@pytest.mark.long
def test_a_run_grows_when_a_node_is_added_and_does_no_step_twice(tmp_path: Path) -> None:
    with nodes(1) as cluster:
        exact = ["exact=true", "dtype=float32", "logging.every=1"]
        words = endless(tmp_path, "replicas=3", "cluster.min_replicas=1", "name=grown", *exact)
        command = train_command("digits", *words, address=cluster.address)
        wait_until(lambda: logged(tmp_path, "grown"), "it trains on one", command)
        cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        wait_until(lambda: list((tmp_path / "grown").glob("step-*/state.json")), "it keeps its step", command)
        (kept,) = (int(file.parent.name[5:]) for file in (tmp_path / "grown").glob("step-*/state.json"))
        wait_until(lambda: logged(tmp_path, "grown")[-1] > kept + 5, "it goes on", command)
        assert len(set(holders(cluster))) == 3
        command.send_signal(signal.SIGTERM)
        out, err = command.communicate(timeout=PATIENCE)
        assert command.returncode == 143, err
        assert f"there is room for more replicas: step {kept:,} is kept" in out
        assert re.findall(r"going on from step ([\d,]+)", out) == [f"{kept:,}"]
        end = logged(tmp_path, "grown")[-1]
        assert logged(tmp_path, "grown") == list(range(1, end + 1)), "every metric once"
        words = endless(tmp_path, "name=alone", f"steps={end}", *exact)
        code, _, err = train("digits", *words, address=cluster.address)
        assert code == 0, err
    grown, alone = final(tmp_path, "grown", end), final(tmp_path, "alone", end)
    assert all(torch.equal(value, grown[key]) for key, value in alone.items())
