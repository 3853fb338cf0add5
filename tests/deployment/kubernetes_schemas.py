"""Manifests against schemas: Kubernetes' own by kubernetes-validate, KubeRay's by its CRDs, made strict.

A CRD's schema lets unknown fields pass (the API server drops them, and says nothing that a script would hear), and
its defaults are filled in before `required` is looked at. Neither is JSON Schema's way.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

Schema = dict[str, Any]

#: The oldest Kubernetes that the manifests are written for.
VERSION = "1.34"
#: Kinds of other projects, whose schemas are not to be had here.
UNCHECKED = ("kueue.x-k8s.io/",)


def problems(manifest: Schema, crds: Path) -> list[str]:
    """What is wrong with a manifest, in lines of PATH: MESSAGE."""
    if manifest["apiVersion"].startswith(UNCHECKED):
        return []
    if manifest["apiVersion"].startswith("ray.io/"):
        return list(_problems_of_ray(manifest, crds))
    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{_path(error)}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [f"apiVersion: {error.message}"]
    return []


def _problems_of_ray(manifest: Schema, crds: Path) -> Iterator[str]:
    validator = ray_validator(manifest["kind"], manifest["apiVersion"].partition("/")[2], crds)
    if validator is None:
        yield f"kind: {manifest['apiVersion']} has no {manifest['kind']}"
        return
    schema = validator.schema
    assert isinstance(schema, dict)
    filled = defaulted(manifest, schema)
    for error in validator.iter_errors(filled):
        yield f"{_path(error)}: {error.message}"
    yield from _repeated(filled, schema, "")


def _path(error: jsonschema.ValidationError) -> str:
    return ".".join(str(part) for part in error.absolute_path)


@functools.cache
def ray_validator(kind: str, version: str, crds: Path) -> jsonschema.Draft202012Validator | None:
    """What a RayJob, say, of KubeRay has to be."""
    file = crds / f"ray.io_{kind.lower()}s.yaml"
    if not file.exists():
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    crd = yaml.load(file.read_text(), loader)
    versions = {entry["name"]: entry["schema"]["openAPIV3Schema"] for entry in crd["spec"]["versions"]}
    if version not in versions:
        return None
    schema = versions[version]
    schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return jsonschema.Draft202012Validator(strict(schema))


def strict(schema: Schema) -> Schema:
    """The schema, in JSON Schema's words: what a field does not list it refuses."""
    made = copy.copy(schema)
    for key in ("properties", "patternProperties"):
        if key in made:
            made[key] = {name: strict(field) for name, field in made[key].items()}
    for key in ("items", "additionalProperties", "not"):
        if isinstance(made.get(key), dict):
            made[key] = strict(made[key])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in made and not made.get("x-kubernetes-int-or-string"):
            # Inside these a CRD repeats some fields of the whole; what they do not repeat is not forbidden.
            made[key] = [dict(part) for part in made[key]]
    if made.get("x-kubernetes-int-or-string"):
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    elif made.get("type") == "object" and not made.get("x-kubernetes-preserve-unknown-fields"):
        if made.get("x-kubernetes-embedded-resource"):
            own = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
            made["properties"] = {**own, **made.get("properties", {})}
        made.setdefault("additionalProperties", False)
    if made.pop("nullable", False):
        made = {"anyOf": [{"type": "null"}, made]}
    return made


def defaulted(value: Any, schema: Schema) -> Any:
    """The value, as the API server stores it: with the schema's defaults."""
    if isinstance(value, list) and "items" in schema:
        return [defaulted(item, schema["items"]) for item in value]
    if not isinstance(value, dict):
        return value
    fields = schema.get("properties", {})
    given = {name: copy.deepcopy(field["default"]) for name, field in fields.items() if "default" in field} | value
    others = schema.get("additionalProperties")
    inner = others if isinstance(others, dict) else {}
    return {name: defaulted(item, fields.get(name, inner)) for name, item in given.items()}


def _repeated(value: Any, schema: Schema, path: str) -> Iterator[str]:
    """Entries of a list that is a map, which have the same key."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _repeated(item, schema.get("properties", {}).get(name, {}), f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys", [])
        seen = [tuple(item.get(key) for key in keys) for item in value if isinstance(item, dict)]
        for key in sorted({str(key) for key in seen if keys and seen.count(key) > 1}):
            yield f"{path}: {key} is there twice"
        for at, item in enumerate(value):
            yield from _repeated(item, schema.get("items", {}), f"{path}.{at}")
