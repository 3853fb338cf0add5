"""The checkpoints in a run's folder: published whole, found by looking, the newest kept.

What lies in the folder is what there is, whatever anybody else has noted of it: a process that dies between a
checkpoint and the note of it has lost nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.storage.location import Location
from service.artifacts import checkpoints
from service.artifacts.checkpoints import MARKER, CheckpointError, DamagedCheckpointError, State

#: In the folder of a checkpoint that is still to be measured: it is kept until it has been.
UNMEASURED = "unmeasured"
_MARKER = re.compile(rf"step-(\d+)/{re.escape(MARKER)}")
_UNMEASURED = re.compile(rf"step-(\d+)/{UNMEASURED}")


def steps(run: Location) -> list[int]:
    """The steps of the checkpoints that are complete, in order; none if the run's folder is not there."""
    return _steps(run, _MARKER)


def publish(checkpoint: Path, run: Location, step: int, unmeasured: bool = False, replicas: int = 0) -> Location:
    """Copy a checkpoint that was saved to a folder into the run's, its marker last; returns where it is then.

    Args:
        unmeasured: whether `prune` is to leave it until `measured`.
        replicas: how many the run is on, for whoever goes on from it.

    Raises:
        OSError: the storage refuses.
    """
    checkpoints.seal(checkpoint, replicas)
    target = run / checkpoints.name_of(step)
    target.delete()  # What a process that died here has left, or what was damaged.
    if unmeasured:  # First: a checkpoint that others see without it may be deleted before it is measured.
        (target / UNMEASURED).write(b"")
    target.copy_from(Location.of(str(checkpoint)), last=MARKER)
    return target


def measured(run: Location, step: int) -> None:
    """The checkpoint need not be kept for a measurement any longer."""
    (run / checkpoints.name_of(step) / UNMEASURED).delete()


def unmeasured(run: Location) -> list[int]:
    """The steps of those that are still to be measured, in order; some may not be complete yet."""
    return _steps(run, _UNMEASURED)


def prune(run: Location, keep: int) -> None:
    """Delete all checkpoints but the `keep` newest, and those that are still to be measured."""
    waiting = unmeasured(run)
    for step in steps(run)[:-keep]:
        if step not in waiting:
            place = run / checkpoints.name_of(step)
            (place / MARKER).delete()  # First, so that what is half deleted does not look whole.
            place.delete()


def newest(run: Location, identity: Mapping[str, str] | None, tell: Callable[[str], None]) -> State | None:
    """The newest checkpoint that is whole; None if there is none.

    A damaged one is set aside: it loses its marker and counts no more. That is done only when an older one was read,
    so that what a machine wrongly takes for damage costs no run its checkpoints.

    Args:
        identity: that of the run that wants to go on, if it must match.
        tell: hears of each damaged one, in a line.

    Raises:
        CheckpointError: it cannot be read, is of another recipe or data set, or all there are are damaged.
    """
    damaged: dict[int, DamagedCheckpointError] = {}
    for step in reversed(steps(run)):
        try:
            state = read(run, step, identity)
        except DamagedCheckpointError as error:
            damaged[step] = error
            continue
        for bad, damage in damaged.items():
            (run / checkpoints.name_of(bad) / MARKER).delete()
            tell(f"{damage}; going back to that of step {step:,}")
        return state
    if damaged:
        first = next(iter(damaged.values()))
        raise CheckpointError(
            f"no checkpoint of {run} is whole: {first}; to begin at the first step, delete its step-* folders"
        )
    return None


def read(run: Location, step: int, identity: Mapping[str, str] | None = None) -> State:
    """The checkpoint of a step. Raises CheckpointError: as `checkpoints.load` does, or it cannot be read."""
    place = run / checkpoints.name_of(step)
    if place.is_local:
        return checkpoints.load(Path(place.path), identity)
    with TemporaryDirectory() as copy:
        return checkpoints.fetch(place, Path(copy), identity)


def _steps(run: Location, marker: re.Pattern[str]) -> list[int]:
    return sorted(int(match[1]) for file in run.files(recursive=True) if (match := marker.fullmatch(file.name)))
