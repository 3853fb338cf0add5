"""A run that is to go on: the configuration it was started with, and whether it would stay the same run."""

from __future__ import annotations

import difflib
import json
from contextlib import suppress

from pipelines.components import ConfigError, nearest
from pipelines.storage.location import Location
from service.configuration import own_recipes
from service.configuration.config import EXECUTION_KEYS, Run, storage_root
from service.configuration.reading import from_tree
from service.configuration.tree import dump, flatten

#: How many runs are named to somebody who asks for one that is not there.
_SHOWN_RUNS = 10


def stored_run(name: str, storage: str) -> Run:
    """The configuration with which a run was started. Raises ConfigError if there is none."""
    file = Location.of(storage_root(storage)) / str(name) / "run.json"
    try:
        tree = dict(json.loads(file.read()))
    except FileNotFoundError:
        raise ConfigError(f"resume: there is no run {name!r} in {storage}; {_runs_in(storage, str(name))}") from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"resume: {file} is damaged ({error}); copy it from a backup, or start anew") from error
    if tree.get("recipe_file"):
        own_recipes.make_parts_importable(tree["recipe_file"])
    return from_tree(tree)


def check_same(run: Run, stored: Run, recipe: str | None) -> None:
    """Raise ConfigError if `run` would not be the continuation of `stored`."""
    before = dict(flatten(dump(stored)))
    changed = [
        key
        for key, value in flatten(dump(run))
        if before.get(key) != value and key.partition(".")[0] not in EXECUTION_KEYS
    ]
    if recipe is not None and own_recipes.name_of(recipe) != stored.recipe:
        changed.append(f"recipe {recipe}")
    if changed:
        raise ConfigError(
            f"resume: {run.resume} is a run of {stored.recipe}; {', '.join(changed)} would make it another one"
        )


def _runs_in(storage: str, name: str) -> str:
    """A phrase that names the runs that can be resumed instead: the nearest, or the last ones."""
    root = Location.of(storage_root(storage))
    changed: dict[str, int] = {}
    for folder in root.folders():
        with suppress(FileNotFoundError):
            changed[folder] = (root / folder / "run.json").describe().changed
    if not changed:
        return "there are no runs; storage=FOLDER names another place"
    newest = sorted(changed, key=changed.__getitem__)[-_SHOWN_RUNS:]
    return nearest(name, difflib.get_close_matches(name, changed, n=1) or newest)
