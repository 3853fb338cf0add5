"""Finding one's way in manifests: the pods in them, their containers, the Ray clusters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]

#: The label by which policies know a pod.
ROLE = "selfgan.io/role"
#: Kinds whose pods run to an end.
_JOBS = ("CronJob", "Job")


@dataclass(frozen=True)
class Pod:
    """A pod that a manifest asks for: where, and what."""

    where: str
    kind: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ends(self) -> bool:
        """Whether it is a job's, and so asked for no probes."""
        return self.kind in _JOBS or "submitterPodTemplate" in self.where


@dataclass(frozen=True)
class Ray:
    """The specification of a Ray cluster, of its own or in a RayJob."""

    where: str
    spec: dict[str, Any]

    @property
    def groups(self) -> list[dict[str, Any]]:
        return list(self.spec.get("workerGroupSpecs", []))


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def find(manifests: list[Manifest], name: str) -> Manifest:
    (found,) = [one for one in manifests if name_of(one) == name]
    return found


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def names(manifests: list[Manifest], *kinds: str) -> set[str]:
    return {manifest["metadata"]["name"] for manifest in of_kind(manifests, *kinds)}


def pods(manifests: list[Manifest]) -> list[Pod]:
    return [pod for manifest in manifests for pod in _pods(manifest, name_of(manifest), manifest["kind"])]


def _pods(value: Any, where: str, kind: str) -> Iterator[Pod]:
    """A pod's template is known by its containers, wherever it is."""
    if isinstance(value, dict):
        spec = value.get("spec")
        if isinstance(spec, dict) and "containers" in spec:
            yield Pod(where, kind, (value.get("metadata") or {}).get("labels") or {}, spec)
            return
        for key, item in value.items():
            yield from _pods(item, f"{where}.{key}", kind)
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _pods(item, f"{where}.{at}", kind)


def rays(manifests: list[Manifest]) -> list[Ray]:
    found = [Ray(name_of(one), one["spec"]) for one in of_kind(manifests, "RayCluster")]
    return found + [Ray(name_of(one), one["spec"]["rayClusterSpec"]) for one in of_kind(manifests, "RayJob")]


def launchers(manifests: list[Manifest]) -> list[tuple[Pod, list[str]]]:
    """The pods that run our launcher, and their words: Kubernetes' variables resolved as far as ConfigMaps can."""
    found = []
    for pod in pods(manifests):
        for container in pod.containers:
            if "pipelines.rayjob" in container.get("command", []):
                values = variables(container, manifests)
                found.append((pod, [resolved(word, values) for word in container.get("args", [])]))
    return found


def words_of(pod: Pod, manifests: list[Manifest]) -> list[str]:
    """The command and arguments of all its containers, resolved likewise."""
    return [
        resolved(word, variables(container, manifests))
        for container in pod.containers
        for word in [*container.get("command", []), *container.get("args", [])]
    ]


def variables(container: dict[str, Any], manifests: list[Manifest]) -> dict[str, str]:
    """The container's variables; a value that no manifest holds is a word in capitals."""
    data = {one["metadata"]["name"]: one.get("data", {}) for one in of_kind(manifests, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= data.get(source.get("configMapRef", {}).get("name"), {})
    for entry in container.get("env", []):
        reference = entry.get("valueFrom", {}).get("configMapKeyRef")
        known = data.get(reference["name"], {}).get(reference["key"]) if reference else None
        found[entry["name"]] = entry.get("value") or known or entry["name"]
    return found


def resolved(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(f"$({name})", value)
    return word


def selected(labels: dict[str, str], selector: dict[str, Any]) -> bool:
    """Whether a label selector means these labels."""
    wanted: dict[str, str] = selector.get("matchLabels") or {}
    for expression in selector.get("matchExpressions", []):
        if expression["operator"] != "In" or labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in wanted.items())
