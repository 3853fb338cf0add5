"""A recipe, one of the project's or one of the user's own, and what overrides it -> a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipelines.components import ConfigError
from pipelines.storage.location import Location
from service.configuration import own_recipes
from service.configuration.compatibility import check
from service.configuration.config import EXECUTION_KEYS, Run, storage_root
from service.configuration.overrides import apply, merge, parse
from service.configuration.reading import from_tree
from service.configuration.recipe_texts import DEFAULT_RECIPE, text_of
from service.configuration.tree import dump, flatten


def load(recipe: str | None = None, overrides: Sequence[str] = ()) -> Run:
    """The run that a recipe and ``key=value`` overrides ask for; with ``resume=RUN``, that run's own.

    Args:
        recipe: a name, or the path or URI of a YAML file [default: digits].

    Raises:
        ConfigError: unknown recipe, key or value; parts that cannot be combined.
    """
    given = parse(overrides)
    storage = str(given.get("storage", Run.model_fields["storage"].default))
    if recipe is not None and own_recipes.is_file(recipe):
        own_recipes.make_parts_importable(recipe)
    stored = _stored(given["resume"], storage) if given.get("resume") else None
    # Overrides go on top of a resolved run, so that an option of a part the recipe does not mention can be set.
    tree = dump(stored) if stored else _resolved(recipe or DEFAULT_RECIPE)
    apply(tree, given)
    run = from_tree(tree)
    check(run)
    if stored:
        _check_same(run, stored, recipe)
    return run


def _resolved(recipe: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every option of a recipe, on top of those of its base.

    Args:
        above: the recipes of which this one is a base.
    """
    if recipe in above:
        raise ConfigError(f"base: {' -> '.join([*above, recipe])} never ends; a recipe cannot be its own base")
    said = own_recipes.parse(text_of(recipe), recipe)
    described = {"recipe": own_recipes.name_of(recipe)}
    if own_recipes.is_file(recipe):
        described["recipe_file"] = own_recipes.absolute(recipe)
    base = said.pop("base", None)
    tree = _resolved(own_recipes.base_of(str(base), recipe), (*above, recipe)) if base is not None else {}
    try:
        return dump(from_tree({**merge(tree, said), **described}))
    except ConfigError as error:
        raise ConfigError(f"{recipe}: {error}" if own_recipes.is_file(recipe) else str(error)) from error


def _check_same(run: Run, stored: Run, recipe: str | None) -> None:
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


def _stored(name: str, storage: str) -> Run:
    """The configuration with which a run was started."""
    file = Location.of(storage_root(storage)) / str(name) / "run.json"
    try:
        tree = dict(json.loads(file.read()))
    except FileNotFoundError:
        raise ConfigError(f"resume: there is no run {name!r} in {storage} ({file} is missing)") from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"resume: {file} is damaged ({error}); copy it from a backup, or start anew") from error
    if tree.get("recipe_file"):
        own_recipes.make_parts_importable(tree["recipe_file"])
    return from_tree(tree)
