"""``--help``: recipes, and every option with its default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

from pipelines.components import Component, find, names
from service.configuration.config import Run
from service.configuration.recipe import DEFAULT_RECIPE, recipes
from service.losses.objectives import Objective
from service.models.networks import Network
from service.tasks import Task
from service.training.optimizers import Optimizer
from service.training.schemes import Scheme

_FAMILIES: dict[str, type[Component]] = {
    "network": Network,
    "task": Task,
    "objective": Objective,
    "scheme": Scheme,
    "optimizer": Optimizer,
}


def text(usage: str) -> str:
    """The whole help, with the command line's usage."""
    from pipelines.data.sources import Source
    from pipelines.quality.features import FeatureNetwork
    from service.losses.balances import Balance
    from service.losses.regularizers import Regularizer
    from service.losses.terms import Term

    lines = ["Trains a GAN recipe on any number of replicas, with the same result on all of them.", ""]
    lines += [f"usage: {usage}", "", f"recipes (default: {DEFAULT_RECIPE}):"]
    lines += [f"  {name:<33}{summary}" for name, summary in recipes().items()]
    lines += ["", "options (KEY=VALUE, values are YAML) and their defaults:"]
    lines += list(_options(Run, ""))
    lines += ["", "parts, chosen by name (KEY=NAME) or with options (KEY.OPTION=VALUE):"]
    families: dict[str, tuple[str, type[Component]]] = {
        **{key: (f"service.{key}s", base) for key, base in _FAMILIES.items()},
        "scheme.balance": ("service.losses.balances", Balance),
        "regularizers": ("service.losses.regularizers", Regularizer),
        "terms": ("service.losses.terms", Term),
        "data.source": ("pipelines.data.sources", Source),
        "evaluation.features": ("pipelines.quality.features", FeatureNetwork),
    }
    for key, (package, base) in families.items():
        lines += [f"  {key}={name:<{30 - len(key)}} {_part(find(package, name, base))}" for name in names(package)]
    lines += ["", "  --dry-run               print the resolved configuration, and stop"]
    return "\n".join(lines)


def _part(component: type[Component]) -> str:
    options = [
        f"{name}={_value(field)}" if not isinstance(field.default, Component) else name
        for name, field in component.model_fields.items()
    ]
    return " ".join(options)


def _options(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        key = f"{prefix}{name}"
        if key == "recipe" or name in _FAMILIES or key == "data.source":
            continue
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _options(inner, f"{key}.")
        else:
            yield f"  {f'{key}={_value(field)}':<36}{field.description or ''}".rstrip()


def _value(field: FieldInfo) -> Any:
    if field.is_required():
        return "..."
    value = field.default
    if value is None:
        return ""
    if isinstance(value, ByteSize):
        return value.human_readable()
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else value
