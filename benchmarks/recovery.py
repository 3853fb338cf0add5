"""From the death of a replica or a node to the next step: how long, and what the time goes to.

``python -m benchmarks recovery times=5``
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil

from benchmarks.clusters import holders, nodes, replicas
from benchmarks.kills import Training

USUAL = {"times": 3, "seed": 0}
_ENDLESS = 1_000_000
_LOOK_SECONDS = 0.02
_RESTORED = "going on from step"
Kill = Callable[[Training, random.Random], float]


def kill_replica(training: Training, chance: random.Random) -> float:
    """Returns when."""
    chance.choice(replicas(training.cluster)).kill()
    return time.time()


def kill_node(training: Training, chance: random.Random) -> float:
    """Another one is there to take its place."""
    training.cluster.add_node(num_cpus=1)
    return lose_node(training, chance)


def lose_node(training: Training, chance: random.Random) -> float:
    """None comes in its place: the run goes on on fewer replicas."""
    dying = chance.choice(holders(training.cluster))
    (node,) = [node for node in training.cluster.worker_nodes if node.node_id == dying]
    training.cluster.remove_node(node, allow_graceful=False)
    return time.time()


def recovery(training: Training, kill: Kill, chance: random.Random) -> list[float]:
    """When it happened, and when its marks were passed, in the order of `PARTS`."""
    before = {process.pid for process in replicas(training.cluster)}
    after = len(before) - (kill is lose_node)
    attempts, logged = training.log().count(_RESTORED), len(training.logged())
    marks = [kill(training, chance)]
    conditions: tuple[Callable[[], bool], ...] = (
        lambda: not any(psutil.pid_exists(pid) for pid in before),
        lambda: len(replicas(training.cluster)) == after,
        lambda: training.log().count(_RESTORED) > attempts,
        lambda: len(training.logged()) > logged,
    )
    for passed in conditions:
        while not passed():
            assert training.process.poll() is None, training.log()
            time.sleep(_LOOK_SECONDS)
        marks.append(time.time())
    return marks


PARTS = (
    "Ray finds the death and ends the others",
    "places found, processes started",
    "imports, networks, restoring",
    "steps until the next that is logged",
)
KINDS = {"a replica killed": kill_replica, "a node killed, another there": kill_node, "a node killed": lose_node}


def main(*words: str) -> None:
    given = {**USUAL, **{key: int(value) for key, value in (word.split("=", 1) for word in words)}}
    for name, kill in KINDS.items():
        took = [part for _ in range(1 if kill is not lose_node else given["times"]) for part in _measure(kill, given)]
        totals = ", ".join(f"{sum(parts):.1f}" for parts in took)
        print(f"  {name}: {totals} s; median of each part:")
        for part, values in zip(PARTS, zip(*took, strict=True), strict=True):
            print(f"    {part:<42}{median(values):5.1f} s", flush=True)


def _has_logged(training: Training, count: int) -> bool:
    return len(training.logged()) > count


def _measure(kill: Kill, given: dict[str, int]) -> list[list[float]]:
    """The seconds of each part, of every death that one run survives; a run of two replicas can lose one node."""
    chance = random.Random(given["seed"])  # noqa: S311
    with tempfile.TemporaryDirectory() as folder, nodes(1, 1) as cluster:
        training = Training(cluster, Path(folder), "recovery", _ENDLESS, "cluster.min_replicas=1")
        took: list[list[float]] = []
        try:
            for _ in range(given["times"] if kill is not lose_node else 1):
                logged = len(training.logged())
                assert training.wait(partial(_has_logged, training, logged + 5)), training.log()
                marks = recovery(training, kill, chance)
                took.append([later - earlier for earlier, later in pairwise(marks)])
        finally:
            training.process.kill()
            training.process.wait()
    return took
