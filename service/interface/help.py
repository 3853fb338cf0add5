"""``selfgan train [RECIPE] --help``: every option of a run, with the recipe's own values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ByteSize

from pipelines.components import Component, Options, name_of
from service.configuration.config import Run
from service.interface.columns import entry, paragraph
from service.interface.parts import value_of

_HELP = """\
usage: {prog} [RECIPE] [KEY=VALUE ...] [--dry-run] [--help]

Trains a recipe: one of `selfgan recipes`, or a YAML file of your own. Batch
statistics and loss weights are those of the whole batch, on any number of
replicas.

examples:
  selfgan train                             the default: digits
  selfgan train digits steps=500 replicas=2
  selfgan train self-dcgan-mnist data.source.uri=FOLDER
  selfgan train my_recipe.yaml              base: digits, and what you change
  selfgan train resume=RUN                  go on with a run that stopped
  selfgan train digits --dry-run            print every option, train nothing

Options of {recipe}, with its values (KEY=VALUE; values are YAML):"""
#: What people look for first, and so on; what is in none of the groups comes with the recipe.
_GROUPS = {
    "where and how it runs": ("replicas", "cluster", "storage", "name", "resume", "loader"),
    "what it reports and keeps": ("logging", "profile", "checkpoints", "tracking"),
    "how its model is judged": ("evaluation", "promotion", "retraining"),
}
_HIDDEN = ("recipe", "recipe_file")


def train_help(run: Run, prog: str) -> str:
    """The whole text, for a terminal of 80 columns."""
    lines = [_HELP.format(prog=prog, recipe=run.recipe)]
    grouped = {name for names in _GROUPS.values() for name in names}
    own = [name for name in Run.model_fields if name not in grouped and name not in _HIDDEN]
    for title, fields in {"what it trains": own, **_GROUPS}.items():
        lines += ["", f"{title}:"]
        for name in fields:
            lines += _option(name, getattr(run, name), Run.model_fields[name].description or "")
    return "\n".join(lines)


def _option(key: str, value: Any, description: str) -> Iterator[str]:
    """A value's lines: one for a plain value, one for every option of a group of them."""
    if isinstance(value, Component):
        description = description or f"`selfgan parts {key.rpartition('.')[2]}` lists others"
        yield entry(f"{key}={name_of(value)}", description)
        if options := list(_flat(key, value)):
            yield paragraph(options, 6)
    elif isinstance(value, Options) and type(value).model_fields:
        for name, field in type(value).model_fields.items():
            yield from _option(f"{key}.{name}", getattr(value, name), field.description or "")
    elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
        names = [name_of(item) if isinstance(item, Component) else "..." for item in value]
        yield entry(f"{key}=[{','.join(names)}]", description)
    else:
        yield entry(f"{key}={_shown(value)}", description)


def _flat(key: str, part: Component) -> Iterator[str]:
    """The options of a part as ``key.option=value``; those of parts within it, too."""
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, Component):
            yield f"{key}.{name}={name_of(value)}"
            yield from _flat(f"{key}.{name}", value)
        else:
            yield f"{key}.{name}={value_of(value)}"


def _shown(value: Any) -> str:
    return value.human_readable() if isinstance(value, ByteSize) else value_of(value)
