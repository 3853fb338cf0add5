"""Components: the parts of a recipe, each one file that owns its options.

A family is a package (``service.losses.objectives``) whose ``__init__`` declares one abstract subclass of
`Component`; every other module of it holds one concrete subclass, and the file's name is the component's
name. Any other name (``my_objective``, ``my_package.my_objective``) is that of a module outside the project, so that
a component can be added without touching it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class ConfigError(ValueError):
    """A mistake in the configuration that the user can mend; its text is the one line to show."""


def first_line(error: BaseException) -> str:
    """The first line that an error has to say, or what it is."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class Options(BaseModel):
    """Some options of a configuration. Unknown ones are refused, and numbers are finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_meant(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's ``true`` is no 1, nor ``yes`` or ``on``, read as true; and no text is empty, but by default."""
        if isinstance(value, str) and not value and cls.model_fields[info.field_name or ""].default != "":
            raise ValueError("input should not be empty; null leaves it out")
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and not {bool, Any} & {annotation, *get_args(annotation)}:
            raise ValueError("expected a value, got a boolean; quote yes, no, on and off, which YAML reads as booleans")
        return value


class Component(Options):
    """A part of a recipe. Its fields are its options."""


C = TypeVar("C", bound=Component)


def nearest(word: str, known: Iterable[str]) -> str:
    """A phrase that names the valid word nearest to `word`, or lists all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def names(package: str) -> list[str]:
    """The names of a family's components: the files of its package."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path))


def find(package: str, name: str, base: type[C]) -> type[C]:
    """The component called `name` of the family in `package`.

    Raises:
        ConfigError: there is no such file, or it holds no component of the family.
    """
    family = package.rpartition(".")[2]
    own = name in names(package)
    if not own and "." not in name and not _is_a_users_module(name):
        raise ConfigError(f"{family}: unknown name {name!r}; {nearest(name, names(package))}")
    path = f"{package}.{name}" if own else name
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if not path.startswith(error.name or path):
            raise
        raise ConfigError(f"{family}: no module {path!r} can be imported") from error
    for _, found in inspect.getmembers(module, inspect.isclass):
        if found.__module__ == module.__name__ and issubclass(found, base):
            return found
    raise ConfigError(f"{family}: {path!r} holds no {base.__name__}")


def _is_a_users_module(name: str) -> bool:
    """Whether a name is that of a module outside the project, such as one beside a recipe of the user's own."""
    return name.isidentifier() and name not in sys.stdlib_module_names and importlib.util.find_spec(name) is not None


def name_of(component: Component) -> str:
    """The name by which `find` returns this component's class."""
    module = type(component).__module__
    return module.rpartition(".")[2] if module.startswith(("service.", "pipelines.")) else module


def resolve(package: str, value: Any, base: type[C], default: str | None = None) -> C:
    """A component from what a recipe says of it: a name, or a mapping with ``name`` and its options.

    Args:
        default: the name that options without one are meant for.

    Raises:
        ConfigError: there is no such component, or its class lacks a method.
        ValidationError: its options are wrong.
    """
    if isinstance(value, base):
        return value
    options: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"name": value}
    if default is not None:
        options.setdefault("name", default)
    if not isinstance(options.get("name"), str):
        raise ConfigError(f"{package.rpartition('.')[2]}: a name is missing; known: {', '.join(names(package))}")
    name = options.pop("name")
    found = find(package, name, base)
    if lacking := sorted(getattr(found, "__abstractmethods__", ())):
        family = package.rpartition(".")[2]
        raise ConfigError(f"{family}: class {found.__name__} of {name!r} does not define {' and '.join(lacking)}")
    return found(**options)
