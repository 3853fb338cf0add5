"""Configurations as nested mappings of plain values: what YAML and JSON files hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ByteSize

from pipelines.components import Component, name_of


def dump(options: BaseModel) -> dict[str, Any]:
    """Nested mappings of plain values, every option stated; `service.configuration.reading` reads them."""
    return {name: _plain(getattr(options, name)) for name in type(options).model_fields}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as (dotted key, value) pairs."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def keys(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every dotted key of nested mappings, inner nodes too."""
    found = []
    for key, value in tree.items():
        found.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            found += keys(value, f"{prefix}{key}.")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = {name: _plain(getattr(value, name)) for name in type(value).model_fields}
        return {"name": name_of(value), **fields} if isinstance(value, Component) else fields
    if isinstance(value, ByteSize):
        return int(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
