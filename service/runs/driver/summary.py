"""The end of a run: its model registered, its curves drawn, and where everything is."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines.storage.location import Location
from service.artifacts import best, registry, run_checkpoints, version_page
from service.artifacts.checkpoints import CheckpointError, State
from service.runs.driver.failures import RunError
from service.runs.driver.preparation import Prepared
from service.runs.driver.watchdog import present
from service.runs.on_replica.outputs import local_folder
from service.tracking import tracker as tracking
from service.tracking.progress import Status
from service.tracking.run_page import Input
from service.tracking.sample_grids import animation, curves
from service.tracking.tracker import TrackingError

#: Of a run's animation.
_MOST_FRAMES, _FRAME_SECONDS, _LAST_SECONDS = 40, 0.2, 2.0


@dataclass(frozen=True)
class Trained:
    """A run that has ended, and what came of it.

    Attributes:
        name: of the run.
        folder: path or URI of its checkpoints.
        model: ``models:/`` URI of the registered model.
        step: of the last checkpoint.
        best: folder of the best checkpoint, below the run's.
        samples: the last grid of sample images; None where it is in MLflow alone.
        animation: the grids as a GIF, if there are several.
        curves: the losses as a picture.
        tracking_uri, tracking_run: MLflow's server or database, and the run there.
        peak_bytes: the most memory that each replica has held, by rank.
    """

    name: str
    folder: str
    model: str
    step: int
    best: str | None
    samples: Path | None
    animation: Path | None
    curves: Path
    tracking_uri: str
    tracking_run: str
    peak_bytes: Mapping[int, int]

    def lines(self) -> Iterator[tuple[str, str]]:
        """What a person wants to know: (title, text), with commands that work as they stand."""
        yield "samples", str(self.samples or "in MLflow")
        if self.animation:
            yield "animation", str(self.animation)
        yield "curves", str(self.curves)
        yield "model", self.model
        kept = f", best {self.best}" if self.best else ""
        yield "checkpoints", f"{self.folder} (last step {self.step:,}{kept})"
        if self.peak_bytes:
            yield "memory", f"at most {', '.join(map(_megabytes, self.peak_bytes.values()))} a replica"
        database = self.tracking_uri.startswith("sqlite")
        ui = f"{_program('mlflow')} ui --backend-store-uri {self.tracking_uri}" if database else self.tracking_uri
        yield "MLflow", f"{ui}   (run {self.tracking_run})"
        yield "images", f"{_program('selfgan')} generate --model {self.model} --out grid.png{self._where()}"

    def _where(self) -> str:
        """What `generate` must be told to find the model."""
        usual = f"sqlite:///{Path('runs/mlflow.db').resolve()}"
        return "" if self.tracking_uri == usual else f" --tracking {self.tracking_uri}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _program(name: str) -> str:
    """How a shell in this folder calls a program that is installed with this Python."""
    own = Path(sys.executable).with_name(name)
    if not own.exists() or shutil.which(name) == str(own):
        return name
    near = os.path.relpath(own)
    return str(own) if near.startswith("..") else near


def finish(prepared: Prepared, tracking_run: str, posted: Status) -> Trained:
    """Register the model, draw the curves, and end the run in MLflow.

    Raises:
        RunError: MLflow fails, or the last checkpoint is gone.
    """
    run, uri, folder = prepared.run, prepared.tracking_uri, local_folder(prepared.folder, tracking_run)
    state = _last(prepared)
    samples = sorted((folder / "samples").glob("*.png"))
    try:
        picture = samples[-1] if samples else None
        model = registry.register(run, state, uri, tracking_run, picture, prepared.manifest.classes)
        _adopt_figures(prepared, model)
        folder.mkdir(parents=True, exist_ok=True)
        moving = _animated(samples, folder / "samples.gif")
        if moving:
            tracking.log_file(uri, tracking_run, moving)
        if history := tracking.history(uri, tracking_run):
            curves(history, folder / "curves.png")
            tracking.log_file(uri, tracking_run, folder / "curves.png")
        tags = {"model": model, "data.replaced_rows": str(posted.replaced_rows)}
        tracking.finish_run(uri, tracking_run, "FINISHED", tags)
    except TrackingError as error:
        raise RunError(
            f"trained, but MLflow at {uri} fails ({error}); {prepared.resume} registers the model"
        ) from error
    kept = best.read(Location.of(prepared.folder))
    return Trained(
        name=prepared.name,
        folder=prepared.folder,
        model=model,
        step=state.step,
        best=kept.folder if kept else None,
        samples=picture,
        animation=moving,
        curves=folder / "curves.png",
        tracking_uri=uri,
        tracking_run=tracking_run,
        peak_bytes={pulse.rank: pulse.peak_bytes for pulse in present(posted)},
    )


def _animated(grids: Sequence[Path], file: Path) -> Path | None:
    """A GIF of sample grids, the first and the last among them; None if there is nothing to see change."""
    if len(grids) < 2:
        return None
    count = min(len(grids), _MOST_FRAMES)
    shown = [grids[number * (len(grids) - 1) // (count - 1)] for number in range(count)]
    frames = []
    for path in shown:
        with Image.open(path) as picture:
            frames.append(picture.copy())
    animation(frames, file, _FRAME_SECONDS, _LAST_SECONDS)
    return file


def _adopt_figures(prepared: Prepared, model: str) -> None:
    """What was measured while the run trained belongs to its model."""
    if not prepared.run.evaluation.during_training:
        return
    named = registry.ModelName.of(model)
    assert named.version is not None
    data = Input.of(Location.of(prepared.data), prepared.manifest, "evaluation")
    version_page.adopt_figures(named.name, named.version, prepared.tracking_uri, data)


def _last(prepared: Prepared) -> State:
    """The run's last checkpoint."""
    place = Location.of(prepared.folder)
    found = run_checkpoints.steps(place)
    try:
        if found:
            return run_checkpoints.read(place, found[-1])
        raise CheckpointError(f"there is no checkpoint in {place}")
    except CheckpointError as error:
        raise RunError(f"trained, but {error}; {prepared.resume} does what is missing") from error
