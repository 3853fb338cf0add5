"""The project's recipes by name, and what any recipe's file says."""

from __future__ import annotations

from importlib import resources

from pipelines.components import ConfigError, nearest
from service.configuration import own_recipes

DEFAULT_RECIPE = "digits"
_FOLDER = resources.files("service") / "recipes"


def recipes() -> dict[str, str]:
    """The name of every recipe of the project, and its first comment line."""
    files = sorted((file for file in _FOLDER.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file.read_text().splitlines()[0].lstrip("# ") for file in files}


def by_data() -> dict[str, list[str]]:
    """Recipes' names by what they train on, the default's data first; a recipe and its self form are neighbours."""
    groups: dict[str, list[str]] = {}
    for name in sorted(recipes(), key=lambda name: (name.removeprefix("self-"), name.startswith("self-"))):
        source = own_recipes.parse(text_of(name), name)["data"]["source"]
        groups.setdefault(source["uri"] if isinstance(source, dict) else source, []).append(name)
    return dict(sorted(groups.items(), key=lambda group: (DEFAULT_RECIPE not in group[1], group[0])))


def text_of(recipe: str) -> str:
    """What a recipe's file says. Raises ConfigError if there is none."""
    if own_recipes.is_file(recipe):
        return own_recipes.read(recipe)
    known = recipes()
    if recipe not in known:
        raise ConfigError(
            f"recipe: there is no {recipe!r}; {nearest(recipe, known)} (selfgan recipes lists them; a file of your own "
            "ends in .yaml)"
        )
    return (_FOLDER / f"{recipe}.yaml").read_text()
