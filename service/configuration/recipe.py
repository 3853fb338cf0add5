"""A recipe, one of the project's or one of the user's own, and what overrides it -> a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.components import ConfigError
from service.configuration import own_recipes
from service.configuration.compatibility import check
from service.configuration.config import Run
from service.configuration.overrides import apply, merge, parse
from service.configuration.reading import from_tree
from service.configuration.recipe_texts import DEFAULT_RECIPE, text_of
from service.configuration.resuming import check_same, stored_run
from service.configuration.tree import dump


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
    stored = stored_run(given["resume"], storage) if given.get("resume") else None
    # Overrides go on top of a resolved run, so that an option of a part the recipe does not mention can be set.
    tree = dump(stored) if stored else _resolved(recipe or DEFAULT_RECIPE)
    apply(tree, given)
    run = from_tree(tree)
    check(run)
    if stored:
        check_same(run, stored, recipe)
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
