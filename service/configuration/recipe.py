"""A recipe and what overrides it -> a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources

import yaml

from pipelines.components import ConfigError, nearest
from pipelines.storage.location import Location
from service.configuration.compatibility import check
from service.configuration.config import EXECUTION_KEYS, Run, storage_root
from service.configuration.overrides import apply, split
from service.configuration.reading import from_tree
from service.configuration.tree import dump, flatten

DEFAULT_RECIPE = "digits"


def recipes() -> dict[str, str]:
    """Every recipe's name, and its first comment line."""
    folder = resources.files("service") / "recipes"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file.read_text().splitlines()[0].lstrip("# ") for file in files}


def load(recipe: str | None, overrides: Sequence[str] = ()) -> Run:
    """The run that a recipe and ``key=value`` overrides ask for; with ``resume=RUN``, that run's own.

    Raises:
        ConfigError: unknown recipe, key or value; parts that cannot be combined.
    """
    given = dict(split(override) for override in overrides)
    storage = str(given.get("storage", Run.model_fields["storage"].default))
    stored = _stored(given["resume"], storage) if given.get("resume") else None
    # Overrides go on top of a resolved run, so that an option of a part the recipe does not mention can be set.
    tree = dump(stored or _recipe(recipe or DEFAULT_RECIPE))
    for path, value in sorted(given.items(), key=lambda item: item[0].count(".")):  # A part before its options.
        apply(tree, path, value)
    run = from_tree(tree)
    check(run)
    if stored:
        _check_same(run, stored, recipe)
    return run


def _check_same(run: Run, stored: Run, recipe: str | None) -> None:
    """Raise ConfigError if `run` would not be the continuation of `stored`."""
    before = dict(flatten(dump(stored)))
    changed = [
        key
        for key, value in flatten(dump(run))
        if before.get(key) != value and key.partition(".")[0] not in EXECUTION_KEYS
    ]
    if recipe not in (None, stored.recipe):
        changed.append(f"recipe {recipe}")
    if changed:
        raise ConfigError(
            f"resume: {run.resume} is a run of {stored.recipe}; {', '.join(changed)} would make it another one"
        )


def _recipe(name: str) -> Run:
    known = recipes()
    if name not in known:
        raise ConfigError(f"recipe: there is no {name!r}; {nearest(name, known)} (--help lists them)")
    text = (resources.files("service") / "recipes" / f"{name}.yaml").read_text()
    return from_tree({"recipe": name, **yaml.safe_load(text)})


def _stored(name: str, storage: str) -> Run:
    """The configuration with which a run was started."""
    file = Location.of(storage_root(storage)) / str(name) / "run.json"
    try:
        return from_tree(json.loads(file.read()))
    except FileNotFoundError:
        raise ConfigError(f"resume: there is no run {name!r} in {storage} ({file} is missing)") from None
