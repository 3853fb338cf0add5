"""The best checkpoint of a run, kept beside the last ones, whatever becomes of those."""

from __future__ import annotations

from contextlib import suppress

from pydantic import BaseModel, ValidationError

from pipelines.storage.location import Location

_POINTER, _FOLDER = "best.json", "best"


class Best(BaseModel):
    """Which checkpoint it is; its score, lower is better."""

    step: int
    score: float

    @property
    def folder(self) -> str:
        """Where it lies, in the run's folder."""
        return f"{_FOLDER}/step-{self.step:08}"


def read(run: Location) -> Best | None:
    """The best checkpoint in a run's folder, if there is one yet; a damaged pointer points to none."""
    pointer = run / _POINTER
    with suppress(FileNotFoundError, ValidationError):
        return Best.model_validate_json(pointer.read())
    return None


def publish(run: Location, best: Best, checkpoint: Location) -> None:
    """Copy `checkpoint`, then point to the copy, then drop the one before: a reader finds one at any time."""
    before = read(run)
    target = run / best.folder
    target.copy_from(checkpoint)
    (run / _POINTER).write(best.model_dump_json().encode())
    if before is not None and before.folder != best.folder:
        (run / before.folder).delete()
