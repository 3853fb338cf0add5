"""The kill matrix: replicas, the driver and nodes die at random moments, and the weights are those of a run in peace.

``python -m benchmarks kills`` does all of it; ``kills replica=2 driver=1 node=1 seconds=5`` is short.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from ray.cluster_utils import Cluster
from torch import Tensor

from benchmarks.clusters import RAY_ENVIRONMENT, ROOT, holders, nodes, replicas
from pipelines.storage.location import Location
from service.artifacts import run_checkpoints

#: How often each dies, and up to how many seconds pass between two deaths, from when replicas are there.
USUAL = {"replica": 20, "driver": 5, "node": 3, "seconds": 12, "steps": 1500, "seed": 0}
RECIPE = [
    "digits", "batch.size=24", "network.generator_channels=8", "network.critic_channels=8", "replicas=2",
    "logging.every=5", "checkpoints.every=25", "checkpoints.score_images=64", "cluster.cpus_per_replica=1",
    "logging.samples_every=100000", "cluster.max_failures=-1",
]  # fmt: skip


class Training:
    """One run on a cluster, whose command is started again with ``resume`` when it was killed."""

    def __init__(self, cluster: Cluster, storage: Path, name: str, steps: int, *more: str) -> None:
        self.cluster, self.folder = cluster, storage / name
        self._first = [*RECIPE, f"storage={storage}", f"name={name}", f"steps={steps}", *more]
        self._again = [f"resume={name}", f"storage={storage}"]
        self.start()

    def start(self) -> None:
        words = self._again if (self.folder / "run.json").exists() else self._first
        environment = {**os.environ, **RAY_ENVIRONMENT, "RAY_ADDRESS": self.cluster.address}
        with (self.folder.parent / f"{self.folder.name}.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "service" / "train.py"), *words], cwd=ROOT, env=environment,
                stdout=log, stderr=log,
            )  # fmt: skip

    def log(self) -> str:
        """What its commands have printed so far."""
        return (self.folder.parent / f"{self.folder.name}.log").read_text()

    def logged(self) -> list[int]:
        """The steps whose metrics were noted."""
        journal = self.folder / "metrics.jsonl"
        lines = journal.read_text().splitlines() if journal.exists() else []
        return [json.loads(line)["step"] for line in lines if "loss/real" in line]

    def wait(self, condition: Callable[[], object]) -> bool:
        """Whether the condition came before the run's end."""
        while not condition():
            if self.process.poll() is not None:
                return False
            time.sleep(0.05)
        return True

    def end(self) -> dict[str, Tensor]:
        """Its last weights, and what else continues, when it has ended."""
        code = self.process.wait()
        if code:
            raise RuntimeError(f"{self.folder.name} ended with code {code}: {self.log()[-1000:]}")
        place = Location.of(str(self.folder))
        state = run_checkpoints.read(place, run_checkpoints.steps(place)[-1])
        return {**state.networks, **state.rows}


def kill_replica(training: Training, chance: random.Random, seconds: float) -> bool:
    """At any moment, starts of replicas included."""
    while training.wait(lambda: replicas(training.cluster)):
        time.sleep(chance.uniform(0, seconds))
        if training.process.poll() is not None:
            return False
        if alive := replicas(training.cluster):  # Else they are being started again.
            with suppress(psutil.NoSuchProcess):  # It has ended just now.
                chance.choice(alive).kill()
                return True
    return False


def in_training(training: Training, chance: random.Random, seconds: float) -> bool:
    """Wait for a moment while steps are done; returns whether there is one."""
    before = len(training.logged())
    if not training.wait(lambda: len(training.logged()) > before):
        return False
    time.sleep(chance.uniform(0, seconds))
    return training.process.poll() is None


def kill_driver(training: Training, chance: random.Random, seconds: float) -> bool:
    if not in_training(training, chance, seconds):
        return False
    training.process.kill()
    training.process.wait()
    training.start()
    return True


def kill_node(training: Training, chance: random.Random, seconds: float) -> bool:
    """Another one comes in its place."""
    if not in_training(training, chance, seconds) or not (holding := holders(training.cluster)):
        return False
    dying = chance.choice(holding)
    (node,) = [node for node in training.cluster.worker_nodes if node.node_id == dying]
    training.cluster.remove_node(node, allow_graceful=False)
    training.cluster.add_node(num_cpus=1)
    return True


KINDS = {"replica": kill_replica, "driver": kill_driver, "node": kill_node}


def main(*words: str) -> None:
    given = {**USUAL, **{key: int(value) for key, value in (word.split("=", 1) for word in words)}}
    chance, steps = random.Random(given["seed"]), given["steps"]  # noqa: S311
    with tempfile.TemporaryDirectory() as folder, nodes(1, 1, 1) as cluster:
        storage = Path(folder)
        began = time.monotonic()
        peace = Training(cluster, storage, "peace", steps)
        undisturbed = peace.end()
        print(f"  undisturbed: {steps:,} steps on 2 replicas in {time.monotonic() - began:.0f} s", flush=True)
        for kind, kill in KINDS.items():
            began = time.monotonic()
            training, killed = Training(cluster, storage, kind, steps), 0
            while killed < given[kind] and kill(training, chance, given["seconds"]):
                killed += 1
            after = training.end()
            equal = sum(torch.equal(value, after[name]) for name, value in undisturbed.items())
            once = training.logged() == peace.logged()
            print(
                f"  {kind}: killed {killed} of {given[kind]} times, {equal} of {len(undisturbed)} tensors bit-equal, "
                f"every metric once: {'yes' if once else 'NO'}, {time.monotonic() - began:.0f} s",
                flush=True,
            )
