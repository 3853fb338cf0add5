"""What manifests say of each other, and no schema sees: names that nothing has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.deployment.kubernetes_objects import (
    ROLE,
    Manifest,
    Pod,
    launchers,
    name_of,
    names,
    of_kind,
    pods,
    rays,
    resolved,
    selected,
    variables,
)

_README = Path(__file__).resolve().parents[2] / "k8s" / "README.md"
#: A row of the README's table of secrets: | `secret` | `key`, `key` | ...
_ROW = re.compile(r"^\| `([\w.-]+)` \| ([^|]*) \|", re.MULTILINE)
URL = re.compile(r"\b(?:https?|postgresql(?:\+\w+)?)://(?:\w+@)?([a-z][\w-]*):(\d+)")
_PASSWORD = "MLFLOW_TRACKING_PASSWORD"
_VARIABLE = re.compile(r"\$\((\w+)\)")


def secrets() -> dict[str, set[str]]:
    """The secrets that a user is told to make, and their keys."""
    return {name: set(re.findall(r"`([\w.-]+)`", keys)) for name, keys in _ROW.findall(_README.read_text())}


def dangling(manifests: list[Manifest]) -> Iterator[str]:
    """References to ConfigMaps, Secrets, accounts, claims, volumes, variables and ports that are not there."""
    known: dict[str, dict[str, set[str]]] = {
        "configMap": {one["metadata"]["name"]: set(one.get("data", {})) for one in of_kind(manifests, "ConfigMap")},
        "secret": secrets(),
    }
    accounts, claims = names(manifests, "ServiceAccount"), names(manifests, "PersistentVolumeClaim")
    for pod in pods(manifests):
        if pod.spec.get("serviceAccountName") not in accounts:
            yield f"{pod.where}: no ServiceAccount {pod.spec.get('serviceAccountName')}"
        for kind, name, key in _references(pod):
            if name not in known[kind]:
                yield f"{pod.where}: no {kind} {name}"
            elif key is not None and key not in known[kind][name]:
                yield f"{pod.where}: {kind} {name} has no {key}"
        for volume in pod.spec.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in claims:
                yield f"{pod.where}: no PersistentVolumeClaim {claim}"
        yield from _within(pod, manifests)


def _references(pod: Pod) -> Iterator[tuple[str, str, str | None]]:
    for volume in pod.spec.get("volumes", []):
        if "configMap" in volume:
            yield "configMap", volume["configMap"]["name"], None
        if "secret" in volume:
            yield "secret", volume["secret"]["secretName"], None
    for container in pod.containers:
        sources = [*container.get("envFrom", []), *(entry.get("valueFrom", {}) for entry in container.get("env", []))]
        for source in sources:
            for kind in ("configMap", "secret"):
                for field in (f"{kind}Ref", f"{kind}KeyRef"):
                    if field in source:
                        yield kind, source[field]["name"], source[field].get("key")


def users(manifests: list[Manifest]) -> Iterator[str]:
    """MLflow's administrator stays with MLflow. Whoever else logs in is a user that is made beside the server."""
    administrators, made = set(), set()
    for pod in pods(manifests):
        for container in pod.containers:
            of = _secrets_of(container)
            administrators |= {of[name] for name in of if name.startswith("MLFLOW_AUTH_ADMIN_")}
            if "service.tracking.accounts" in container.get("command", []):
                made.add(of.get(_PASSWORD))
    for pod in pods(manifests):
        found = [_secrets_of(container) for container in pod.containers]
        if any(set(of.values()) & administrators for of in found) and not any(
            "MLFLOW_AUTH_ADMIN_PASSWORD" in of for of in found
        ):
            yield f"{pod.where}: has the password of MLflow's administrator"
        for of in found:
            if _PASSWORD in of and of[_PASSWORD] not in made:
                yield f"{pod.where}: logs in to MLflow as a user that nothing makes ({of[_PASSWORD]})"
            if _PASSWORD not in of and pod.labels.get(ROLE, "").startswith("ray-"):
                yield f"{pod.where}: cannot log in to MLflow"


def _secrets_of(container: dict[str, Any]) -> dict[str, str]:
    """The secret that each of its variables is from."""
    references = {one["name"]: one.get("valueFrom", {}).get("secretKeyRef") for one in container.get("env", [])}
    return {name: reference["name"] for name, reference in references.items() if reference}


def _within(pod: Pod, manifests: list[Manifest]) -> Iterator[str]:
    """Volumes, variables and ports, which a pod's containers name."""
    volumes = {volume["name"] for volume in pod.spec.get("volumes", [])} | _claimed(pod, manifests)
    for container in pod.containers:
        where, own = f"{pod.where}: {container['name']}", variables(container, manifests)
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{where} mounts {mount['name']}, which is no volume"
        for word in [*container.get("command", []), *container.get("args", [])]:
            for variable in _VARIABLE.findall(word):
                if variable not in own:
                    yield f"{where} has no variable {variable}"
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = container.get(probe, {}).get("httpGet", {}).get("port")
            if isinstance(port, str) and port not in ports:
                yield f"{where} probes the port {port}, which it has not"


def _claimed(pod: Pod, manifests: list[Manifest]) -> set[str]:
    (owner,) = [one for one in manifests if f"{pod.where}.".startswith(f"{name_of(one)}.")]
    return {claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])}


def services(manifests: list[Manifest]) -> Iterator[str]:
    """Services that mean no pod, and addresses that mean no Service."""
    ports: dict[str, set[int]] = {
        # KubeRay makes one for each head.
        f"{one['metadata']['name']}-head-svc": {6379, 8265, 8080, 10001}
        for one in of_kind(manifests, "RayCluster")
    }
    for service in of_kind(manifests, "Service"):
        ports[service["metadata"]["name"]] = {port["port"] for port in service["spec"]["ports"]}
        means = [pod for pod in pods(manifests) if selected(pod.labels, {"matchLabels": service["spec"]["selector"]})]
        opened = {port["name"] for pod in means for one in pod.containers for port in one.get("ports", [])}
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in opened:
                yield f"{name_of(service)}: no pod that it selects has the port {port['targetPort']}"
    for stateful in of_kind(manifests, "StatefulSet"):
        if stateful["spec"]["serviceName"] not in ports:
            yield f"{name_of(stateful)}: no Service {stateful['spec']['serviceName']}"
    for where, text in _texts(manifests):
        for host, port in URL.findall(text):
            if host != "localhost" and int(port) not in ports.get(host, set()):
                yield f"{where}: no Service answers at {host}:{port}"


def _texts(manifests: list[Manifest]) -> Iterator[tuple[str, str]]:
    for one in of_kind(manifests, "ConfigMap"):
        for key, text in one.get("data", {}).items():
            yield f"{name_of(one)}.{key}", text
    for pod in pods(manifests):
        for container in pod.containers:
            values = variables(container, manifests)
            for word in [*container.get("command", []), *container.get("args", []), *values.values()]:
                yield f"{pod.where}: {container['name']}", resolved(word, values)


def bindings(manifests: list[Manifest]) -> Iterator[str]:
    """Rights that are given to nobody, or that are not there; templates and queues of the same sort."""
    for binding in of_kind(manifests, "RoleBinding"):
        if binding["roleRef"]["name"] not in names(manifests, binding["roleRef"]["kind"]):
            yield f"{name_of(binding)}: no {binding['roleRef']['kind']} {binding['roleRef']['name']}"
        for subject in binding["subjects"]:
            if subject["name"] not in names(manifests, subject["kind"]):
                yield f"{name_of(binding)}: no {subject['kind']} {subject['name']}"
    for pod, words in launchers(manifests):
        submits = any(word.startswith("--submit") for word in words)
        if not submits and words[0] not in names(manifests, "RayJob"):
            yield f"{pod.where}: no RayJob {words[0]} to clone"
        for queue in (word.partition("=")[2] for word in words if word.startswith("--queue=")):
            if queue not in names(manifests, "LocalQueue"):
                yield f"{pod.where}: no LocalQueue {queue}"
    for ray in rays(manifests):
        secret = ray.spec.get("authOptions", {}).get("secretName")
        if secret and "auth_token" not in secrets().get(secret, set()):
            yield f"{ray.where}: no secret {secret} with an auth_token"
    yield from _queues(manifests)


def _queues(manifests: list[Manifest]) -> Iterator[str]:
    for queue in of_kind(manifests, "LocalQueue"):
        if queue["spec"]["clusterQueue"] not in names(manifests, "ClusterQueue"):
            yield f"{name_of(queue)}: no ClusterQueue {queue['spec']['clusterQueue']}"
    for cluster in of_kind(manifests, "ClusterQueue"):
        flavors: list[dict[str, Any]] = [one for group in cluster["spec"]["resourceGroups"] for one in group["flavors"]]
        for flavor in flavors:
            if flavor["name"] not in names(manifests, "ResourceFlavor"):
                yield f"{name_of(cluster)}: no ResourceFlavor {flavor['name']}"
