"""What MLflow's page says of a run beside its numbers: what it is, who started it, from which code, on which data."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from pipelines.data.shards import Manifest
from pipelines.storage.location import Location
from service.configuration.config import Run, in_submitted_job
from service.configuration.recipe_texts import recipes


@dataclass(frozen=True)
class Input:
    """A version of a data set, as MLflow shows it.

    Attributes:
        digest: the manifest's hash, so that equal data are one data set.
        place: path or URI of its manifest.
        rows: how many images it holds.
    """

    name: str
    digest: str
    place: str
    version: int
    rows: int
    context: Literal["training", "evaluation"]

    @classmethod
    def of(cls, folder: Location, manifest: Manifest, context: Literal["training", "evaluation"]) -> Input:
        """Of the data set that lies in a folder."""
        place = str(folder / manifest.name)
        return cls(folder.name, manifest.hash, place, manifest.version, manifest.rows, context)


def about(run: Run, inputs: Sequence[Input]) -> dict[str, str]:
    """MLflow's own tags of a new run: user, source, and a description in a sentence or two."""
    source = {"mlflow.source.name": f"selfgan train {run.recipe}"}
    source["mlflow.source.type"] = "JOB" if in_submitted_job() else "LOCAL"
    if found := commit():
        source["mlflow.source.git.commit"] = found
    return {"mlflow.user": _user(), "mlflow.note.content": description(run, inputs), **source}


def description(run: Run, inputs: Sequence[Input]) -> str:
    """What a run is, for whoever finds it among others."""
    data = " and ".join(f"{one.name} ({one.rows:,} images, version {one.version})" for one in inputs)
    text = recipes().get(run.recipe, f"The recipe {run.recipe}, from {run.recipe_file}.")
    return (
        f"{text} Trains {run.steps:,} steps of {run.batch.size} images of {run.image.size} on {data}, "
        f"from seed {run.seed}."
    )


def commit() -> str | None:
    """Of this code: what the image was built from, else the repository that it is in; None where neither is known."""
    built = resources.files("service") / "commit.txt"
    if built.is_file() and (text := built.read_text().strip()):
        return text
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError):  # A container may run as a number that has no name.
        return "unknown"
