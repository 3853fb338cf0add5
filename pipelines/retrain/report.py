"""What a retraining did, for a person: Markdown with the figures, grids and curves, in storage and in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pipelines.data.shards import Manifest
from pipelines.promote.decision import Decision
from pipelines.quality.figures import Figures, table
from pipelines.storage.location import Location
from service.artifacts import model_cache, registry
from service.configuration.config import Run
from service.tracking import tracker as tracking
from service.tracking.sample_grids import curves


class Outcome(NamedTuple):
    """One retraining that has been decided on.

    Attributes:
        trained: the model's URI, the run's name, and the champion that it started from, if it did.
        champion: None where there was none.
    """

    run: Run
    manifests: Sequence[Manifest]
    trained: Mapping[str, Any]
    decision: Decision
    candidate: Figures
    champion: Figures | None


def write_report(outcome: Outcome, notes: Location) -> None:
    """Write ``report.md`` and its pictures to `notes`, and to the candidate's run in MLflow.

    Raises:
        TrackingError: MLflow fails.
    """
    run, uri = outcome.run, outcome.run.tracking_uri
    name = run.model_name
    version = registry.ModelName.of(outcome.trained["model"]).version
    assert version is not None
    run_id = registry.run_of(name, version, uri)
    with TemporaryDirectory() as place:
        folder = Path(place)
        if history := tracking.history(uri, run_id):
            curves(history, folder / "curves.png")
        champion = registry.tags_of(name, version, uri).get("promotion.against")
        for title, number in (("candidate", version), ("champion", champion)):
            if number:
                card = model_cache.pull(f"models:/{name}/{number}", uri, model_cache.CACHE.expanduser()) / "samples.png"
                if card.exists():
                    (folder / f"{title}.png").write_bytes(card.read_bytes())
        (folder / "report.md").write_text(text(outcome, {file.stem for file in folder.glob("*.png")}))
        for file in sorted(folder.iterdir()):
            (notes / file.name).write(file.read_bytes())
            tracking.log_file(uri, run_id, file, "report")


def text(outcome: Outcome, pictures: set[str]) -> str:
    """The report in Markdown.

    Args:
        pictures: those of candidate, champion and curves that there are.
    """
    run, decision = outcome.run, outcome.decision
    data = [
        f"- version {manifest.version}, hash `{manifest.hash}`: {manifest.rows:,} images, {'; '.join(manifest.sources)}"
        for manifest in outcome.manifests
    ]
    start = outcome.trained["champion"]
    grids = [title for title in ("candidate", "champion") if title in pictures]
    lines = [
        f"# {run.recipe}: {decision.result.name.lower()}",
        "",
        f"{outcome.trained['model']}: {decision.reason}.",
        "",
        "## Data",
        "",
        *data,
        "",
        "## Training",
        "",
        f"Run `{outcome.trained['name']}`, {run.steps:,} steps of {run.batch.size} images, from "
        f"{f'champion {start}' if start else 'scratch'}.",
        "",
        *(["![Losses and weights](curves.png)", ""] if "curves" in pictures else []),
        "## Figures",
        "",
        f"Of {outcome.candidate.counted}, evaluation `{outcome.candidate.fingerprint}`.",
        "",
        *table({"candidate": outcome.candidate, **({"champion": outcome.champion} if outcome.champion else {})}),
        "",
        *_side_by_side(grids),
    ]
    return "\n".join(lines)


def _side_by_side(grids: Sequence[str]) -> list[str]:
    if not grids:
        return []
    cells = [f"![{title}]({title}.png)" for title in grids]
    return ["## Samples", "", f"| {' | '.join(grids)} |", f"|{'---|' * len(grids)}", f"| {' | '.join(cells)} |", ""]
