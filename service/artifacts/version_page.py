"""A version's page in MLflow: its figures and what was decided of it, for whoever compares versions there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from service.tracking.run_page import Input
from service.tracking.tracker import adopt_metrics, client, failing_clearly, log_metrics

#: MLflow's limit.
_LONGEST = 5000


def write_section(name: str, number: str, uri: str, title: str, lines: Sequence[str]) -> None:
    """Write a section of Markdown at the end of a version's description, in the place of an older one of its title.

    A person's own words stay. Where there is no room, the section is left out, as it is in tags too.

    Raises:
        TrackingError: MLflow fails.
    """
    with failing_clearly():
        before = client(uri).get_model_version(name, number).description or ""
        others = re.sub(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", "", before, flags=re.DOTALL | re.MULTILINE)
        text = "\n".join([others.rstrip(), "", f"## {title}", "", *lines, ""]).lstrip()
        if len(text) <= _LONGEST:
            client(uri).update_model_version(name, number, description=text)


def log_figures(name: str, number: str, uri: str, figures: Mapping[str, float], data: Input) -> None:
    """Log what was measured of a version to it, and to the run that it comes from. Raises TrackingError."""
    run_id, model, step = _origin(name, number, uri)
    log_metrics(uri, run_id, step, figures, model, data)


def adopt_figures(name: str, number: str, uri: str, data: Input) -> None:
    """Let what was measured of a version's checkpoint while it trained be the version's. Raises TrackingError."""
    run_id, model, step = _origin(name, number, uri)
    if model:
        adopt_metrics(uri, run_id, step, "evaluation/", model, data)


def tag_logged_model(name: str, number: str, uri: str, tags: Mapping[str, str]) -> None:
    """Set tags of the logged model behind a version, by which MLflow's table of models is searched.

    Raises:
        TrackingError: MLflow fails.
    """
    _, model, _ = _origin(name, number, uri)
    with failing_clearly():
        if model:
            client(uri).set_logged_model_tags(model, dict(tags))


def _origin(name: str, number: str, uri: str) -> tuple[str, str | None, int]:
    """The run that a version comes from, the logged model that it is, and its step.

    A version from before MLflow 3 is no logged model. Not every store of MLflow gives the model's id, but all say
    where the version's files lie.
    """
    with failing_clearly():
        found = client(uri).get_model_version(name, number)
    logged = re.fullmatch(r"models:/(m-\w+)", found.source or "")
    return found.run_id, found.model_id or (logged and logged[1]), int(found.tags.get("step", "0"))
