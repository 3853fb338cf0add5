"""From where a replica goes on: the newest whole checkpoint of the run, the same one on every replica."""

from __future__ import annotations

from typing import Any

import ray.train
from ray.train import collective

from pipelines.storage.location import Location
from service.artifacts import checkpoints, first_weights, run_checkpoints
from service.artifacts.checkpoints import State
from service.configuration.config import Run
from service.runs.on_replica.replica import Replica


def restore(run: Run, folder: str, replica: Replica, rank: int, status: Any) -> int:
    """Go on from the run's newest checkpoint that is whole, if it has one; returns the steps done.

    Rank 0 looks, and the others take what it has found: they go on from the same step whatever becomes of the folder.

    Args:
        folder: the run's.
        status: hears of rank 0, in a line each, what the run goes on from, of damaged checkpoints, of one that was made
            where bits may differ, and of weights that were not told by their names.

    Raises:
        CheckpointError: the checkpoint is of another recipe or data set, or cannot be read.
    """
    place, tell = Location.of(folder), status.warn.remote
    state = run_checkpoints.newest(place, replica.identity, tell) if rank == 0 else None
    step = collective.broadcast_from_rank_zero(state.step if state else 0)
    if step:
        state = state or run_checkpoints.read(place, step, replica.identity)
        if run.exact and rank == 0 and state.arithmetic != (here := replica.arithmetic):
            tell(f"the checkpoint was made by {state.arithmetic or 'another version'}; {here} may round otherwise")
        if rank == 0:
            replicas = ray.train.get_context().get_world_size()
            status.say.remote(f"checkpoint {place / checkpoints.name_of(step)}{_told(state, replicas)}")
        replica.restore(state)
    elif run.start_from is not None:
        networks = {"generator": replica.generator, "critic": replica.critics}
        replica.begin_with(first_weights.read(run.start_from, networks, tell if rank == 0 else lambda _: None))
    return int(step)


def _told(state: State, replicas: int) -> str:
    """When a checkpoint was written, and on how many replicas; the latter now too."""
    if not state.written:  # By an earlier version.
        return f" (replicas: {replicas} now)"
    return f", written {state.written} (replicas: {state.replicas} then, {replicas} now)"
