"""``key=value`` words, as command lines give them, put into a configuration's nested mappings."""

from __future__ import annotations

from typing import Any

import yaml

from pipelines.components import ConfigError


def split(override: str) -> tuple[str, Any]:
    """``key=value`` -> the key, and the value as YAML."""
    path, found, text = override.partition("=")
    if not found or not path:
        raise ConfigError(f"{override!r}: overrides are written key=value")
    try:
        return path, yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {text!r} is no YAML value") from error


def apply(tree: dict[str, Any], path: str, value: Any) -> None:
    """Put a value into nested mappings and lists; a part that is given by name alone gains its options."""
    *parents, last = path.split(".")
    place: Any = tree
    for parent in parents:
        key = _key(place, parent, path)
        inner = place.get(key) if isinstance(place, dict) else place[key]
        inner = {} if inner is None else {"name": inner} if isinstance(inner, str) else inner
        if not isinstance(inner, dict | list):
            raise ConfigError(f"{path}: {parent!r} has no options")
        place[key] = place = inner
    place[_key(place, last, path)] = value


def _key(place: dict[str, Any] | list[Any], name: str, path: str) -> Any:
    """What a part of a path names: a key, or an item of a list, by its name or number."""
    if isinstance(place, dict):
        return name
    names = [item.get("name") if isinstance(item, dict) else item for item in place]
    if name in names:
        return names.index(name)
    if not (name.isdigit() and int(name) < len(place)):
        known = [f"0 to {len(place) - 1}" if place else "it has none", *filter(None, names)]
        raise ConfigError(f"{path}: {name!r} is none of its items, {', '.join(known)}")
    return int(name)
