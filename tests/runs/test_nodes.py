"""Nodes that come, go and are lost while a run trains: its weights are those of a run in peace."""

import re
import signal
from pathlib import Path

import psutil
import pytest
import torch
from ray.cluster_utils import Cluster

from benchmarks.clusters import holders, nodes
from tests.conftest import RAY_ENVIRONMENT, started_cluster, train_command
from tests.patience import PATIENCE, wait_until
from tests.runs.test_runs import final, options, train
from tests.runs.test_stopping import logged

EXACT = ["exact=true", "dtype=float32", "steps=100000", "logging.every=1", "logging.samples_every=50000"]


def kept(storage: Path, name: str) -> list[int]:
    return sorted(int(file.parent.name[5:]) for file in (storage / name).glob("step-*/state.json"))


def lose(cluster: Cluster, node: str) -> None:
    """It is gone, and has told nobody."""
    (there,) = [one for one in cluster.worker_nodes if one.node_id == node]
    cluster.remove_node(there, allow_graceful=False)


def same_as_in_peace(storage: Path, name: str, *more: str) -> None:
    """One replica that nothing has happened to, as many steps."""
    end = logged(storage, name)[-1]
    assert logged(storage, name) == list(range(1, end + 1)), "every metric once"
    code, _, err = train("digits", *options(storage, "name=peace", *EXACT, f"steps={end}", *more))
    assert code == 0, err
    peace, found = final(storage, "peace", end), final(storage, name, end)
    assert all(torch.equal(value, found[key]) for key, value in peace.items())


@pytest.mark.long
def test_a_run_grows_with_its_cluster_and_shrinks_with_it(tmp_path: Path) -> None:
    """1, 3 and 2 replicas. Growing does no step twice, and a loss only those since the last checkpoint."""
    with nodes(1) as cluster:
        words = options(tmp_path, "replicas=3", "cluster.min_replicas=1", "name=grown", *EXACT)
        words = [word for word in words if not word.startswith("checkpoints.every")]
        command = train_command("digits", *words, "checkpoints.every=50000", address=cluster.address)
        wait_until(lambda: logged(tmp_path, "grown"), "it trains on one", command)
        cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        wait_until(lambda: kept(tmp_path, "grown"), "it keeps its step", command)
        (grew,) = kept(tmp_path, "grown")
        wait_until(lambda: logged(tmp_path, "grown")[-1] > grew + 5, "it goes on with three", command)
        there = holders(cluster)
        assert len(set(there)) == 3
        lose(cluster, there[0])
        wait_until(lambda: len(holders(cluster)) == 2, "it is on two", command)
        before = logged(tmp_path, "grown")[-1]
        wait_until(lambda: logged(tmp_path, "grown")[-1] > before + 5, "it goes on with two", command)
        command.send_signal(signal.SIGTERM)
        out, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 143, err
    assert f"there is room for more replicas: step {grew:,} is kept" in out
    begun = re.findall(r"going on from step ([\d,]+)", out)
    assert begun == [f"{grew:,}"] * 2, "once with three, from the step on one; once with two, from the same checkpoint"
    same_as_in_peace(tmp_path, "grown", "cluster.address=local")


@pytest.mark.long
def test_a_run_whose_cluster_is_lost_goes_on_on_another(tmp_path: Path) -> None:
    """Head and all."""
    with started_cluster(RAY_ENVIRONMENT, cpus=2) as (address, _):
        words = options(tmp_path, "replicas=2", "name=moved", *EXACT)
        command = train_command("digits", *words, address=address)
        wait_until(lambda: kept(tmp_path, "moved"), "the first checkpoint", command)
        port = ":" + address.rpartition(":")[2]
        (head,) = [
            one for one in psutil.process_iter(["cmdline"])
            if f"--port={port[1:]}" in (one.info["cmdline"] or []) and "start" in one.info["cmdline"]
        ]  # fmt: skip
        for process in [*head.children(recursive=True), head]:
            process.kill()
        _, err = command.communicate(timeout=PATIENCE)
    newest = kept(tmp_path, "moved")[-1]
    go_on = f"selfgan train resume=moved storage={tmp_path} goes on from step {newest:,}"
    assert command.returncode == 1, err
    assert err.splitlines()[-1].startswith("error: ") and err.splitlines()[-1].endswith(go_on), err
    resume = ["resume=moved", f"storage={tmp_path}", f"steps={newest + 50}", "cluster.address=local", "replicas=1"]
    code, out, err = train(*resume)
    assert code == 0, err
    assert f"going on from step {newest:,}" in out
    same_as_in_peace(tmp_path, "moved", "cluster.address=local")
