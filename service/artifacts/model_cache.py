"""Registered models on this machine: fetched once, and there while the tracking server is away."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from service.artifacts import registry
from service.generator import CONFIG, DESCRIPTION
from service.tracking.tracker import TrackingError

#: Where fetched models are kept.
CACHE = Path("~/.cache/selfgan/models")


def folder_of(model: str, tracking_uri: str, cache: Path) -> Path:
    """A folder with a model's generator: one that is at hand, or that of a registered model, as `pull` gives it."""
    folder = Path(model)
    if not folder.is_dir():
        return pull(model, tracking_uri, cache)
    if not any((folder / name).exists() for name in (CONFIG, DESCRIPTION)):
        raise registry.NoModelError(f"{model}: the folder has neither {CONFIG} nor {DESCRIPTION}, so no model")
    return folder


def pull(uri: str, tracking_uri: str, cache: Path) -> Path:
    """A folder with a model's generator, fetched once; with the server away, what was fetched last is taken.

    Raises:
        NoModelError: there is no such model.
        TrackingError: the server fails, and the model was never fetched.
    """
    model = registry.ModelName.of(uri)
    # Another server's model of this name is another one.
    shelf = cache / hashlib.sha256(tracking_uri.encode()).hexdigest()[:12] / model.name
    pointer = shelf / f"{model.version or model.alias or 'latest'}.json"
    try:
        number = registry.version_of(uri, tracking_uri)
        # So is a version of that number, if the registry was lost and begun anew.
        place = f"{number}-{registry.run_of(model.name, number, tracking_uri)[:12]}"
    except TrackingError:
        known = _read(pointer)
        if known is None:
            raise
        return _generator_in(shelf / known)
    if not (shelf / place).exists():
        registry.fetch(f"models:/{model.name}/{number}", tracking_uri, shelf / place)
    pointer.write_text(json.dumps({"place": place}))
    return _generator_in(shelf / place)


def _read(pointer: Path) -> str | None:
    """The folder that was fetched last; None if none was, or the note of it is damaged."""
    try:
        return str(json.loads(pointer.read_text())["place"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _generator_in(folder: Path) -> Path:
    return folder / "artifacts" / "generator"
