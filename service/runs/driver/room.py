"""Room for more replicas: a run that goes on fewer than it asks for keeps its step, and begins again on more.

Ray Train resizes what runs at a moment of its own, without a word to the replicas, and what they have done since their
last checkpoint is done twice. So that is switched off (`cluster`), and replicas leave by the way that they leave before
a node's end. Ray Train alone decides on how many they begin again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray._private.state import available_resources_per_node, state

from service.tracking.progress import Status

#: How long there must have been the same room: nodes often come one after the other.
SETTLE_SECONDS = 15.0
_LOOK_SECONDS = 5.0
#: Ray Train asks this actor how many replicas it can start.
_COUNTS = "AutoscalingCoordinator"


def further(free: Sequence[Mapping[str, float]], each: Mapping[str, float]) -> int:
    """How many replicas that need so much each find room on nodes where so much is free."""
    return sum(int(min(node.get(name, 0.0) / need for name, need in each.items() if need > 0) + 1e-9) for node in free)


class Growth:
    """Decides when it is time to begin again on more replicas.

    A number that Ray Train was asked for and did not give is not asked for again while there is as much room.

    Args:
        most: replicas that the run asks for.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen, self._since = (0, 0), 0.0
        self._asked = 0

    def due(self, now: float, attempt: int, replicas: int, room: int) -> bool:
        """Whether an attempt on so many replicas is to end, with room for so many more."""
        reachable = min(self._most, replicas + room)
        if reachable <= replicas:
            self._asked = 0
        if self._seen != (attempt, reachable):
            self._seen, self._since = (attempt, reachable), now
        if reachable <= max(replicas, self._asked) or now - self._since < SETTLE_SECONDS:
            return False
        self._asked = reachable
        return True


class Room:
    """Looks for room, and asks the replicas to leave for it.

    Args:
        status: the run's.
        scaling: what Ray Train is asked for.
    """

    def __init__(self, status: Any, scaling: ray.train.ScalingConfig) -> None:
        self._status, self._elastic = status, scaling.elasticity_enabled
        self._each = scaling.resources_per_worker
        self._growth = Growth(scaling.max_workers)
        self._nodes: set[str] = set()
        self._next = 0.0

    def look(self, posted: Status) -> None:
        """To be called about twice a second: replicas that have lost a node are soon started again."""
        if not self._elastic:
            return
        nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if nodes != self._nodes:
            self._nodes = nodes
            _count_again()
        now = time.monotonic()
        if posted.moved_at is None or now < self._next:
            return
        self._next = now + _LOOK_SECONDS
        if self._growth.due(now, posted.attempts, posted.replicas, further(_free(), self._each)):
            self._status.grow.remote(posted.attempts)


def _free() -> list[dict[str, float]]:
    """What is free on each node that is not about to go."""
    going = state.get_draining_nodes()
    return [free for node, free in available_resources_per_node().items() if node not in going]


def _count_again() -> None:
    """Let Ray count its nodes. It does so every 20 s, and until then asks for room on a node that has gone."""
    with suppress(ValueError, TypeError):  # It is not there yet; another version of Ray has it otherwise.
        ray.get_actor(_COUNTS, namespace=_COUNTS).get_reserved_resources.remote("", recompute=True)
