"""Recipes of the user's own: YAML files anywhere, with parts in Python modules beside them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

from pipelines.components import ConfigError
from pipelines.storage.location import Location, join

_ENDINGS = (".yaml", ".yml")


def is_file(recipe: str) -> bool:
    """Whether a recipe is given as a path or URI, and not by name."""
    return "/" in recipe or recipe.endswith(_ENDINGS)


def is_recipe(word: str) -> bool:
    """Whether a word of a command line is a recipe, and not a ``key=value``; a URI may hold options with a "="."""
    return re.match(r"[\w.]+=", word) is None


def name_of(recipe: str) -> str:
    """What runs of a recipe are named after: for a file, its name without the ending.

    Raises:
        ConfigError: a run cannot be called so.
    """
    if not is_file(recipe):
        return recipe
    name = recipe.partition("?")[0].rpartition("/")[2]
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigError(f"recipe: {recipe}: runs are named after the file; use letters, digits, '.', '_' and '-'")
    return name


def absolute(recipe: str) -> str:
    """A recipe's place, wherever the process goes on to work."""
    return recipe if "://" in recipe else str(Path(recipe).expanduser().absolute())


def base_of(base: str, recipe: str) -> str:
    """The recipe that a file names as its base; a path is meant from the file's folder."""
    if not is_file(base) or "://" in base or Path(base).expanduser().is_absolute():
        return base
    folder, slash, _ = recipe.partition("?")[0].rpartition("/")
    return join(folder, base) if slash else base


def read(recipe: str) -> str:
    """The text of a recipe's file. Raises ConfigError."""
    try:
        return Location.of(recipe).read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe: {recipe} cannot be read: {error}") from error


def parse(text: str, recipe: str) -> dict[str, Any]:
    """What a recipe says, as nested mappings. Raises ConfigError."""
    try:
        said = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe: {recipe} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(said, dict):
        raise ConfigError(f"recipe: {recipe} holds no options; write KEY: VALUE lines, such as base: digits")
    return said


def make_parts_importable(recipe: str) -> None:
    """Let modules beside a recipe's file be imported, behind everything that is installed.

    The file itself may be gone, as when a run is resumed elsewhere: a part that is then missing is named.
    """
    if "://" in recipe:
        return
    folder = str(Path(absolute(recipe)).parent)
    if folder not in sys.path:
        sys.path.append(folder)


def modules_beside(recipe: str | None) -> list[Path]:
    """The files, or packages' folders, that have been imported from beside a recipe's file."""
    if recipe is None or "://" in recipe:
        return []
    folder = Path(absolute(recipe)).parent
    found = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is None or not Path(file).is_relative_to(folder):
            continue
        top = folder / Path(file).relative_to(folder).parts[0]
        if module.__name__.partition(".")[0] == top.stem:
            found.add(top)
    return sorted(found)
