"""Trains the gallery's entries and writes docs/gallery.md. ``python -m docs.gallery [NAME ...]``; no name: the page.

An entry is trained as ``service/train.py`` trains it, on one core, without Ray and MLflow. What is measured is kept
in docs/gallery/results.json, beside the grids.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from benchmarks.compare import EXAMPLES_SEED
from benchmarks.digit_features import IMAGES, DigitDistance
from benchmarks.in_process import opened
from docs.gallery_entries import ENTRIES, FAILED, IMAGES_SEEN, INTRODUCTION, UNFINISHED, Entry
from service.configuration.recipe_texts import recipes
from service.runs.on_replica.loop import SAMPLE_SEED
from service.tracking.sample_grids import grid

FOLDER = Path(__file__).resolve().parent / "gallery"
RESULTS, PAGE = FOLDER / "results.json", FOLDER.parent / "gallery.md"
DATA = Path("data")
_BETWEEN = 12


def train(entry: Entry, storage: str) -> dict[str, Any]:
    """Train an entry, write its picture, and return what was measured."""
    pictures, seconds = [], 0.0
    with opened(entry.recipe, [*entry.overrides.split(), f"steps={entry.steps}"], storage) as replica:
        for step in range(entry.steps):
            began = time.process_time()
            replica.step(step)
            seconds += time.process_time() - began
            if step + 1 in (entry.early, entry.steps):
                pictures.append(grid(replica.generate(entry.samples, SAMPLE_SEED, shown=True)))
        diversity = float(replica.diversity())
        generated = replica.generate(IMAGES, EXAMPLES_SEED) if "mnist" in entry.recipe else None
    if entry.name not in FAILED:
        _side_by_side(pictures).save(FOLDER / f"{entry.name}.png", optimize=True)
    measured: dict[str, Any] = {"seconds": round(seconds), "diversity": round(diversity, 3)}
    if generated is not None:
        measured["distance"] = round(DigitDistance(str(DATA / "mnist"), generated.shape[2])(generated), 1)
    return measured


def _side_by_side(pictures: list[Image.Image]) -> Image.Image:
    first, last = pictures
    both = Image.new(first.mode, (2 * first.width + _BETWEEN, first.height), "white")
    both.paste(first, (0, 0))
    both.paste(last, (first.width + _BETWEEN, 0))
    return both


def command(entry: Entry) -> str:
    """What trains an entry through the service."""
    return " ".join(["selfgan train", entry.recipe, *entry.overrides.split(), f"steps={entry.steps}"])


def page(results: dict[str, dict[str, Any]]) -> str:
    """The whole page, of what has been measured: a table, and then pictures, the nearest to real images first."""
    found = sorted((entry for entry in ENTRIES if entry.name in results), key=lambda one: _order(results[one.name]))
    lines = [INTRODUCTION, "| entry | classifier-FID | CPU seconds | steps | |", "|---|---|---|---|---|"]
    lines += [_row(entry, results[entry.name]) for entry in found]
    for title, group in (("Images", IMAGES_SEEN), ("Unfinished in so few steps", UNFINISHED)):
        lines += ["", f"## {title}", ""]
        for entry in found:
            if entry.name in group:
                lines += _section(entry, results[entry.name])
    lines += ["## Failures", "", "Nobody would look at these, so they have no picture.", ""]
    for entry in found:
        if entry.name in FAILED:
            lines += [f"- `{command(entry)}`: {entry.seen}"]
    if left := [entry.name for entry in ENTRIES if entry.name not in results]:
        lines += ["", "## Not trained yet", "", ", ".join(f"`{name}`" for name in left)]
    return "\n".join([*lines, ""])


def _order(found: dict[str, Any]) -> tuple[float, float]:
    """What has no distance is beside the others, by how different its images are."""
    return found.get("distance", float("inf")), -found["diversity"]


def _row(entry: Entry, found: dict[str, Any]) -> str:
    name = entry.name if entry.name in FAILED else f"[{entry.name}](#{entry.name})"
    kind = {**dict.fromkeys(UNFINISHED, "unfinished"), **dict.fromkeys(FAILED, "failed")}.get(entry.name, "")
    return f"| {name} | {found.get('distance', '')} | {found['seconds']:,} | {entry.steps:,} | {kind} |"


def _section(entry: Entry, found: dict[str, Any]) -> list[str]:
    distance = f", classifier-FID {found['distance']}" if "distance" in found else ""
    cost = f"Steps {entry.early:,} and {entry.steps:,}, {found['seconds']:,} CPU seconds"
    return [
        f"### {entry.name}",
        "",
        f"{recipes()[entry.recipe]} {cost}{distance}, diversity {found['diversity']:.2f}. {entry.seen}".rstrip(),
        "",
        f"![{entry.name}](gallery/{entry.name}.png)",
        "",
        f"`{command(entry)}`",
        "",
    ]


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    known = {entry.name: entry for entry in ENTRIES}
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for unknown in set(names) - {*known, "all"}:
        sys.exit(f"error: the gallery has no {unknown!r}; known: all, {', '.join(known)}")
    for name in known if "all" in names else names:
        with TemporaryDirectory() as storage:
            results[name] = train(known[name], storage)
        sys.stdout.write(f"{name}: {results[name]}\n")
        sys.stdout.flush()
        RESULTS.write_text(json.dumps({entry: results[entry] for entry in known if entry in results}, indent=1) + "\n")
    PAGE.write_text(page(results))


if __name__ == "__main__":
    main(sys.argv[1:])
