"""Writes docs/systems.md: every part and recipe, where it comes from, and what tests it. ``python -m docs``."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from docs.seed_table import table
from pipelines.components import Component, name_of, names
from service.configuration.config import Run
from service.configuration.recipe import load
from service.configuration.recipe_texts import recipes

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "systems.md"
#: Packages of parts, and the key by which a recipe chooses one.
FAMILIES = {
    "service.tasks": "task", "service.losses.objectives": "objective", "service.losses.regularizers": "regularizers",
    "service.training.schemes": "scheme", "service.losses.balances": "scheme.balance", "service.losses.terms": "terms",
    "service.models.networks": "network", "service.training.optimizers": "optimizer",
}  # fmt: skip
_HEAD = """# Parts and recipes

Written by `python -m docs`; a test holds it to the code. Every task is trained with every scheme and objective, or
refused with the reason, by `tests/training/test_combinations.py`; every recipe trains for three steps in
`tests/training/test_recipes.py`. The last column names the tests that choose a part by name.
"""


def parts_of(run: Run) -> Iterator[Component]:
    """The parts that a run is made of."""
    yield from (run.task, run.objective, run.scheme, run.network, run.optimizer, *run.regularizers, *run.terms)
    balance = getattr(run.scheme, "balance", None)
    if balance is not None:
        yield balance


def summary(module: str) -> str:
    """The first sentence of a module's docstring, which names what it is from."""
    return re.split(r"\n\n", importlib.import_module(module).__doc__ or "")[0].replace("\n", " ")


def tests_of(family: str, name: str) -> list[str]:
    """The test files that import a part, or choose it by its key."""
    chosen = rf"{FAMILIES[family]}=(\[?{name}\b|[^\"]*name: {name}\b)"
    given = rf"(\(|\{{\"name\": )\"{name}\"" if FAMILIES[family] in ("objective", "regularizers", "terms") else r"(?!)"
    wanted = re.compile(rf"{re.escape(family)}\.{name}\b|{chosen}|{given}")
    return [file.name for file in sorted((ROOT / "tests").rglob("test_*.py")) if wanted.search(file.read_text())]


def rows(family: str, runs: Mapping[str, Run]) -> Iterator[str]:
    for name in names(family):
        module = f"{family}.{name}"
        users = [
            recipe
            for recipe, run in runs.items()
            if any(type(part).__module__ == module and name_of(part) == name for part in parts_of(run))
        ]
        used = ", ".join(users) if len(users) <= 6 else f"{len(users)} recipes"
        yield f"| `{name}` | {summary(module)} | {used or '-'} | {', '.join(tests_of(family, name)) or '-'} |"


def page() -> str:
    """The whole page."""
    lines = [_HEAD, "## What the seed documents name", "", *table(ROOT), ""]
    runs = {recipe: load(recipe) for recipe in recipes()}
    for family, key in FAMILIES.items():
        lines += [f"## `{key}=`", "", "| name | what, and from where | recipes | tests |", "|---|---|---|---|"]
        lines += [*rows(family, runs), ""]
    lines += ["## Recipes", "", "| recipe | what |", "|---|---|"]
    lines += [*(f"| `{name}` | {text} |" for name, text in recipes().items()), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
