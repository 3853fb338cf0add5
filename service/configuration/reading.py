"""Nested mappings -> a run, and what is wrong with them in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from pipelines.components import ConfigError, nearest
from service.configuration.config import Run
from service.configuration.tree import dump, keys


def from_tree(tree: Mapping[str, Any]) -> Run:
    """A run from nested mappings, such as `dump` makes. Raises ConfigError."""
    try:
        return Run.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_one_line(error, tree)) from error


def _one_line(error: ValidationError, tree: Mapping[str, Any]) -> str:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"{key}: no such key; {_nearest_key(key, _keys_without(path, tree))}"
    if first["type"] == "missing" and path[-1].isdigit():  # Of values that belong together, such as Adam's betas.
        given, missing = list(first["input"]), [one for one in error.errors() if one["type"] == "missing"]
        return f"{'.'.join(path[:-1])}: {given} has too few values; give {len(given) + len(missing)}"
    if first["type"] == "missing":
        return f"{key}: a value is missing; give {key}=..."
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return str(cause)
    if first["type"] == "string_pattern_mismatch" and key == "name":
        return f"{key}: {first['input']!r} is not valid: use letters, digits, '.', '_' and '-', a letter or digit first"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{key}: {_as_yaml(first['input'])} is not valid: {reason[0].lower()}{reason[1:]}"


def _as_yaml(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _keys_without(path: Sequence[str], tree: Mapping[str, Any]) -> list[str]:
    """The keys that would be valid, were the one at `path` not there."""
    rest = copy.deepcopy(dict(tree))
    place: Any = rest
    for part in path[:-1]:
        place = place[part]
    del place[path[-1]]
    try:
        return keys(dump(Run.model_validate(rest)))
    except ValidationError:
        return list(Run.model_fields)


def _nearest_key(key: str, known: Sequence[str]) -> str:
    """Keys are looked for by their last part, wherever it stands, before their spelling is compared."""
    parent, _, last = key.rpartition(".")
    for other in known:
        if other.rpartition(".")[2] == last:
            return f"did you mean {other!r}?"
    siblings = {other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == parent}
    return nearest(last, siblings or known)
