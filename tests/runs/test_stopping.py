"""Runs that are told to stop, or whose nodes are to go: all replicas keep the same step, and nothing is done twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.clusters import announce_end, holders, nodes
from service.runs.on_replica.agreement import steps_to_meeting
from tests.conftest import RAY_ENVIRONMENT, ROOT, train_command
from tests.patience import PATIENCE, wait_until
from tests.runs.test_runs import final, options, replicas, run_of, train

ENDLESS = ["steps=100000", "checkpoints.every=50000", "logging.samples_every=50000"]


def endless(storage: Path, *more: str) -> list[str]:
    """A run that makes no checkpoint by itself."""
    return options(storage, *ENDLESS, *more)


def logged(storage: Path, name: str) -> list[int]:
    file = storage / name / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["step"] for line in lines if "loss/real" in line]


def kept(storage: Path, name: str) -> int:
    """The step of the one checkpoint of a run."""
    (found,) = (storage / name).glob("step-*/state.json")
    return int(found.parent.name.removeprefix("step-"))


def resumed_is_undisturbed(storage: Path, name: str, address: str) -> None:
    """A run that was stopped goes on, and ends as one that was not."""
    stopped = kept(storage, name)
    end = stopped + 7
    code, out, err = train("resume=" + name, f"storage={storage}", f"steps={end}", address=address)
    assert code == 0, err
    assert f"going on from step {stopped}" in out
    words = options(storage, "replicas=2", "name=whole", f"steps={end}", "checkpoints.every=50000")
    code, _, err = train("digits", *words, address=address)
    assert code == 0, err
    whole, again = final(storage, "whole", end), final(storage, name, end)
    assert all(torch.equal(value, again[key]) for key, value in whole.items())
    steps = logged(storage, name)
    assert steps == logged(storage, "whole"), "every metric once"


@pytest.mark.long
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_keeps_its_step(
    tmp_path: Path, ray_cluster: tuple[str, str], sent: signal.Signals, code: int
) -> None:
    command = train_command("digits", *endless(tmp_path, "replicas=2", "name=told"), address=ray_cluster[0])
    wait_until(lambda: logged(tmp_path, "told"), "it trains", command)
    command.send_signal(sent)
    out, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == code, err
    assert "stopping at the end of the step" in out
    step = kept(tmp_path, "told")
    go_on = f"selfgan train resume=told storage={tmp_path} goes on from step {step:,}"
    assert err.splitlines() == [f"interrupted; {go_on}"]
    client, run_id = run_of(tmp_path, "told")
    assert client.get_run(run_id).info.status == "KILLED"
    wait_until(lambda: not list(replicas(ray_cluster[0])), "the replicas end")
    if sent == signal.SIGINT:
        resumed_is_undisturbed(tmp_path, "told", ray_cluster[0])


@pytest.mark.long
def test_stopping_the_whole_terminal_keeps_the_step(tmp_path: Path) -> None:
    """Ctrl-C there reaches every process of a local cluster at once."""
    words = endless(tmp_path, "replicas=2", "name=group", "cluster.address=local")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "service" / "train.py"), "digits", *words],
        cwd=ROOT, env={**os.environ, **RAY_ENVIRONMENT}, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_until(lambda: logged(tmp_path, "group"), "it trains", process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert f"goes on from step {kept(tmp_path, 'group'):,}" in err
    assert len(err.splitlines()) == 1


def test_before_the_first_step_there_is_nothing_to_keep(tmp_path: Path, ray_cluster: tuple[str, str]) -> None:
    command = train_command("digits", *endless(tmp_path, "name=early"), address=ray_cluster[0])
    wait_until((tmp_path / "early" / "run.json").exists, "it has started", command)
    command.send_signal(signal.SIGTERM)
    _, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 143, err
    assert len(err.splitlines()) == 1 and "selfgan train resume=early storage=" in err


@pytest.mark.long
def test_checkpoints_are_made_by_the_clock_on_all_replicas(tmp_path: Path, ray_cluster: tuple[str, str]) -> None:
    words = endless(tmp_path, "replicas=2", "name=clock", "checkpoints.minutes=0.02", "checkpoints.keep=100")
    command = train_command("digits", *words, address=ray_cluster[0])
    made = tmp_path / "clock"
    wait_until(lambda: len(list(made.glob("step-*/state.json"))) >= 3, "three checkpoints", command)
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 130, err


@pytest.mark.long
def test_an_announced_end_of_a_node_costs_no_step(tmp_path: Path) -> None:
    """The run is on other nodes before the announced time has come."""
    with nodes(1, 1, 1) as cluster:
        words = endless(tmp_path, "replicas=2", "name=spot", "logging.every=1")
        command = train_command("digits", *words, address=cluster.address)
        wait_until(lambda: logged(tmp_path, "spot"), "it trains", command)
        going = holders(cluster)[0]
        announce_end(cluster, going, 600)
        stopped = tmp_path / "spot"
        wait_until(lambda: list(stopped.glob("step-*/state.json")), "it keeps its step", command)
        step = kept(tmp_path, "spot")
        wait_until(lambda: logged(tmp_path, "spot")[-1] > step + 5, "it goes on elsewhere", command)
        assert going not in holders(cluster)
        command.send_signal(signal.SIGTERM)
        out, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 143, err
    assert f"going on from step {step:,}" in out
    assert "a node is to go" in out
    steps = logged(tmp_path, "spot")
    assert steps == list(range(1, steps[-1] + 1)), "every metric once"
    peace = ["replicas=2", "name=peace", "logging.every=1", f"steps={steps[-1]}", "cluster.address=local"]
    code, _, err = train("digits", *endless(tmp_path, *peace))
    assert code == 0, err
    undisturbed, again = final(tmp_path, "peace", steps[-1]), final(tmp_path, "spot", steps[-1])
    assert all(torch.equal(value, again[key]) for key, value in undisturbed.items())


def test_replicas_meet_about_once_a_second() -> None:
    assert steps_to_meeting(1, 0.001) == 2, "the speed of one step says little"
    assert steps_to_meeting(64, 0.64) == 100
    assert steps_to_meeting(1, 7.0) == 1
    assert steps_to_meeting(1000, 0.0) == 2000
