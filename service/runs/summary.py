"""The end of a run: its model registered, its curves drawn, and where everything is."""

from __future__ import annotations

from pathlib import Path

import ray
import ray.train

from pipelines.storage.location import Location
from service.artifacts import best, checkpoints, registry
from service.runs.outputs import local_folder
from service.runs.preparation import Prepared, RunError
from service.tracking import tracker as tracking
from service.tracking.pictures import curves
from service.tracking.tracker import TrackingError


def finish(prepared: Prepared, tracking_run: str, result: ray.train.Result, replaced_rows: int) -> dict[str, str]:
    """Register the model, draw the curves, and say where everything is."""
    run, uri, folder = prepared.run, prepared.tracking_uri, local_folder(prepared.folder, tracking_run)
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as path:
        state = checkpoints.load(Path(path))
    samples = sorted((folder / "samples").glob("*.png"))
    try:
        model = registry.register(run, state, uri, tracking_run, samples[-1] if samples else None)
        folder.mkdir(parents=True, exist_ok=True)
        if history := tracking.history(uri, tracking_run):
            curves(history, folder / "curves.png")
            tracking.log_file(uri, tracking_run, folder / "curves.png")
        tracking.finish_run(uri, tracking_run, "FINISHED", {"model": model, "data.replaced_rows": str(replaced_rows)})
    except TrackingError as error:
        raise RunError(
            f"trained, but MLflow at {uri} fails ({error}); resume={prepared.name} registers the model"
        ) from error
    kept = best.read(Location.of(prepared.folder))
    ui = f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite") else uri
    return {
        "samples": str(samples[-1]) if samples else "in MLflow",
        "curves": str(folder / "curves.png"),
        "model": model,
        "checkpoints": f"{prepared.folder} (last step {state.step:,}" + (f", best {kept.folder})" if kept else ")"),
        "MLflow": f"{ui}   (run {tracking_run})",
    }
