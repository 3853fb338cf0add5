"""``key=value`` words, as command lines give them, put into a configuration's nested mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipelines.components import ConfigError


def parse(words: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words as values by dotted key; values are YAML.

    Raises:
        ConfigError: a word is of another form, or a key is given twice.
    """
    given: dict[str, Any] = {}
    for word in words:
        path, found, text = word.partition("=")
        if not found or not path:
            raise ConfigError(f"{word!r}: options are written key=value")
        if path in given:
            raise ConfigError(f"{path}: is given twice; give it once")
        try:
            given[path] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: {text!r} is no YAML value") from error
    return given


def refuse_flags(unknown: Sequence[str], words: Sequence[str]) -> None:
    """Raise ConfigError for ``--steps 50`` or ``--steps=50``, with the spelling ``steps=50``.

    Args:
        unknown: what the command line's parser did not know.
        words: the whole command line.
    """
    flag = next((word for word in unknown if word.startswith("-")), None)
    if flag is None:
        return
    key, found, value = flag.lstrip("-").replace("-", "_").partition("=")
    if not found:
        after = list(words[list(words).index(flag) + 1 :])
        value = after[0] if after and "=" not in after[0] and not after[0].startswith("-") else "VALUE"
    raise ConfigError(f"{flag}: options are written key=value, without dashes: {key}={value}")


def apply(tree: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Put values by dotted key into nested mappings and lists, a part before its options."""
    for path, value in sorted(given.items(), key=lambda item: item[0].count(".")):
        _put(tree, path, value)


def merge(tree: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with what `changes` says in its place, at any depth.

    A mapping changes the options of the part that is there, unless it names another one; a list replaces a list.
    """
    merged = dict(tree)
    for key, value in changes.items():
        before = merged.get(key)
        before = {"name": before} if isinstance(before, str) and isinstance(value, Mapping) else before
        if isinstance(before, dict) and isinstance(value, Mapping) and value.get("name") in (None, before.get("name")):
            merged[key] = merge(before, value)
        elif isinstance(before, dict) and value == before.get("name"):
            merged[key] = before
        else:
            merged[key] = value
    return merged


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    """One value; a part that is given by name alone gains its options."""
    *parents, last = path.split(".")
    place: Any = tree
    for parent in parents:
        key = _key(place, parent, path)
        inner = place.get(key) if isinstance(place, dict) else place[key]
        inner = {} if inner is None or isinstance(inner, bool) else {"name": inner} if isinstance(inner, str) else inner
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
