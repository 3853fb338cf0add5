"""What evaluations have found of a run's checkpoints, in its folder: what later decisions are made from."""

from __future__ import annotations

from pipelines.quality.figures import Figures
from pipelines.storage.location import Location
from service.artifacts import checkpoints, run_checkpoints

_FOLDER = "evaluations"


def note(run: Location, step: int, figures: Figures) -> None:
    """Keep what was found of the checkpoint of a step."""
    (run / _FOLDER / f"{checkpoints.name_of(step)}.json").write(figures.model_dump_json().encode())


def noted(run: Location) -> dict[int, Figures]:
    """By step. Those of other evaluations than the last one cannot be compared with it, and are left out."""
    folder = run / _FOLDER
    found = {
        int(file.name.removeprefix("step-").removesuffix(".json")): Figures.model_validate_json(
            (folder / file.name).read()
        )
        for file in folder.files()
        if file.name.endswith(".json")
    }
    last = found[max(found)].fingerprint if found else None
    return {step: figures for step, figures in found.items() if figures.fingerprint == last}


def settled(run: Location, step: int) -> bool:
    """Whether nothing more is to be noted of the checkpoint of a step: it was measured, or that failed."""
    if (run / _FOLDER / f"{checkpoints.name_of(step)}.json").exists():
        return True
    # Checkpoints appear in their order, so one that is not there any more has been.
    return any(whole >= step for whole in run_checkpoints.steps(run)) and step not in run_checkpoints.unmeasured(run)
