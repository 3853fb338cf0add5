"""``selfgan parts [FAMILY]``: the parts that recipes are made of, with their options."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from pipelines.components import Component, ConfigError, find, names, nearest
from pipelines.data.sources import Source
from pipelines.exit_codes import ExitCode
from pipelines.quality.features import FeatureNetwork
from service.interface.columns import entry, paragraph
from service.losses.balances import Balance
from service.losses.objectives import Objective
from service.losses.regularizers import Regularizer
from service.losses.terms import Term
from service.models.networks import Network
from service.tasks import Task
from service.training.optimizers import Optimizer
from service.training.schemes import Scheme


class Family(NamedTuple):
    """Parts of a kind: their key in a recipe, the package that holds a file for each, and their base class."""

    key: str
    package: str
    base: type[Component]


FAMILIES = [
    Family("network", "service.models.networks", Network),
    Family("task", "service.tasks", Task),
    Family("objective", "service.losses.objectives", Objective),
    Family("scheme", "service.training.schemes", Scheme),
    Family("scheme.balance", "service.losses.balances", Balance),
    Family("regularizers", "service.losses.regularizers", Regularizer),
    Family("terms", "service.losses.terms", Term),
    Family("optimizer", "service.training.optimizers", Optimizer),
    Family("data.source", "pipelines.data.sources", Source),
    Family("evaluation.features", "pipelines.quality.features", FeatureNetwork),
]


def main(arguments: Sequence[str] | None = None, prog: str = "selfgan parts") -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Lists the parts that recipes are made of, or those of a family with their options.",
        epilog="A part is chosen by KEY=NAME, and its options are set by KEY.OPTION=VALUE.",
    )
    known = [family.key.rpartition(".")[2] for family in FAMILIES]
    parser.add_argument("family", nargs="?", help=", ".join(known))
    chosen = parser.parse_args(arguments)
    try:
        print("\n".join(_families() if chosen.family is None else _parts(_named(chosen.family, known))))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USER_ERROR
    return ExitCode.DONE


def sentence(module: str) -> str:
    """The first paragraph of a module's docstring, which names what it is, and after whom."""
    return re.split(r"\n\n", importlib.import_module(module).__doc__ or "")[0].replace("\n", " ")


def value_of(value: Any) -> str:
    """A default as it is written on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(value_of, value))}]"
    return "" if value is None else str(value)


def _named(word: str, known: Sequence[str]) -> Family:
    for family in FAMILIES:
        singular = family.key.rpartition(".")[2].removesuffix("s")
        if word in (family.key, family.package.rpartition(".")[2]) or word.removesuffix("s") == singular:
            return family
    raise ConfigError(f"{word}: no such family of parts; {nearest(word, known)}")


def _families() -> Iterator[str]:
    for family in FAMILIES:
        yield entry(f"{family.key}=", sentence(family.package).partition(": ")[2], column=24)
        yield paragraph(names(family.package), 6)
    yield "\nselfgan parts FAMILY shows what each is, with its options."


def _parts(family: Family) -> Iterator[str]:
    for name in names(family.package):
        yield entry(f"{family.key}={name}", sentence(f"{family.package}.{name}"))
        fields = find(family.package, name, family.base).model_fields
        if fields:
            yield paragraph((f"{option}={_default(field)}" for option, field in fields.items()), 6)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "..."
    default = field.default
    return type(default).__module__.rpartition(".")[2] if isinstance(default, Component) else value_of(default)
