"""What manifests have to hold that no schema says. Each rule takes an overlay's manifests, and yields problems."""

from __future__ import annotations

import datetime
import math
import re
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path

from cronsim import CronSim, CronSimError

from pipelines.rayjob.launches import LONGEST_NAME, QUEUE_LABEL, altered_by_a_shell
from tests.deployment.kubernetes_networks import addresses, networks, reaches
from tests.deployment.kubernetes_objects import ROLE, Manifest, launchers, name_of, of_kind, pods, rays
from tests.deployment.kubernetes_references import bindings, dangling, services, users

Rule = Callable[[list[Manifest]], Iterator[str]]

_LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"
_TPU = "google.com/tpu"
_SELECTORS = ("cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology")
_PINNED = re.compile(r"[\w.-]+(/[\w.-]+)+(:v?\d+(\.\d+)+[\w.-]*|@sha256:[0-9a-f]{64})")
_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
#: Kubernetes appends 11 characters to a CronJob's name, KubeRay up to 13 to a RayCluster's.
_LONGEST = {"RayJob": LONGEST_NAME, "RayCluster": 50, "CronJob": 52}
#: The notice that a cloud gives before it takes a node away, at best.
_NOTICE_SECONDS = 120
#: What keeps Kubernetes' cluster autoscaler and Karpenter from emptying a node.
_STAYS = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
_SOME_DAY = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def schedules(manifests: list[Manifest]) -> Iterator[str]:
    """Times that can be, one retraining at a time."""
    zones = zoneinfo.available_timezones()
    for one in of_kind(manifests, "CronJob"):
        spec = one["spec"]
        try:
            next(CronSim(spec["schedule"], _SOME_DAY))
        except (CronSimError, StopIteration) as error:
            yield f"{name_of(one)}: the schedule {spec['schedule']!r} is none: {error}"
        if zones and spec.get("timeZone") not in zones:
            yield f"{name_of(one)}: no time zone {spec.get('timeZone')}"
        if spec.get("concurrencyPolicy") != "Forbid":
            yield f"{name_of(one)}: two of it may run at once"


def tpus(manifests: list[Manifest]) -> Iterator[str]:
    """A slice's hosts have its chips between them, and nodes are chosen by what it is."""
    for ray in rays(manifests):
        for group in ray.groups:
            spec = group["template"]["spec"]
            chips = sum(int(one["resources"].get("limits", {}).get(_TPU, 0)) for one in spec["containers"])
            chosen = [spec.get("nodeSelector", {}).get(key) for key in _SELECTORS]
            where = f"{ray.where}: group {group['groupName']}"
            if not chips and not any(chosen):
                continue
            if not all(chosen):
                yield f"{where}: needs the node selectors {' and '.join(_SELECTORS)}"
                continue
            asked, topology = group.get("numOfHosts", 1) * chips, str(chosen[1])
            if asked != math.prod(int(side) for side in topology.split("x")):
                yield f"{where}: {group.get('numOfHosts', 1)} hosts x {chips} chips are not a slice of {topology}"


def images(manifests: list[Manifest]) -> Iterator[str]:
    """An image is the same tomorrow."""
    for pod in pods(manifests):
        for container in pod.containers:
            if not _PINNED.fullmatch(container.get("image", "")):
                yield f"{pod.where}: {container.get('image')} is not pinned to a version or a digest"


def ray_version(manifests: list[Manifest]) -> Iterator[str]:
    """KubeRay is told which Ray is in the image."""
    locked = re.search(r"^ray==([\d.]+)", _LOCK.read_text(), re.MULTILINE)
    for ray in rays(manifests):
        if locked and ray.spec.get("rayVersion") != locked[1]:
            yield f"{ray.where}: rayVersion {ray.spec.get('rayVersion')}, but the lock has {locked[1]}"


def entry_points(manifests: list[Manifest]) -> Iterator[str]:
    """KubeRay pastes an entry point into a shell, as it is; the launcher adds its words to it."""
    for one in of_kind(manifests, "RayJob"):
        for word in altered_by_a_shell(one["spec"]["entrypoint"].split()):
            yield f"{name_of(one)}: {word!r} in the entry point means something else to a shell"
    for pod, words in launchers(manifests):
        if "--" not in words:
            yield f"{pod.where}: the launcher's words need a -- before them"
        elif not any(word.startswith("--submit") for word in words):
            for word in altered_by_a_shell(words[words.index("--") + 1 :]):
                yield f"{pod.where}: {word!r} means something else to a shell"


def tokens(manifests: list[Manifest]) -> Iterator[str]:
    """Ray's tokens are on, on both sides; Kubernetes' are where they are needed."""
    for ray in rays(manifests):
        if ray.spec.get("authOptions", {}).get("mode") != "token":
            yield f"{ray.where}: who reaches its dashboard runs code; authOptions.mode is not token"
    for pod, words in launchers(manifests):
        values = {entry["name"]: entry.get("value") for one in pod.containers for entry in one.get("env", [])}
        if any(word.startswith("--submit") for word in words):
            if values.get("RAY_AUTH_MODE") != "token":
                yield f"{pod.where}: submits without RAY_AUTH_MODE=token"
            if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(values):
                yield f"{pod.where}: submits without RAY_AUTH_TOKEN"
    bound = {who["name"] for binding in of_kind(manifests, "RoleBinding") for who in binding["subjects"]}
    for pod in pods(manifests):
        needs, has = pod.spec.get("serviceAccountName") in bound, pod.spec.get("automountServiceAccountToken", True)
        if needs != has:
            yield f"{pod.where}: {'needs the' if needs else 'has no use for a'} token of Kubernetes' API"


def name_lengths(manifests: list[Manifest]) -> Iterator[str]:
    for one in manifests:
        name, most = one["metadata"]["name"], _LONGEST.get(one["kind"])
        if most and len(name) > most:
            yield f"{name_of(one)}: {len(name)} characters, {most} are the most"
        if most and not _LABEL.fullmatch(name):
            yield f"{name_of(one)}: is no DNS label"


def templates(manifests: list[Manifest]) -> Iterator[str]:
    """A RayJob that lies here is for cloning: nothing may start it, and what it becomes ends by itself."""
    for one in of_kind(manifests, "RayJob"):
        spec, where = one["spec"], name_of(one)
        if not spec.get("suspend"):
            yield f"{where}: runs when it is applied; it is to be suspended"
        if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
            yield f"{where}: KubeRay refuses suspend without shutdownAfterJobFinishes"
        if spec.get("backoffLimit", 0) != 0:
            yield f"{where}: a verdict is an exit code; KubeRay would try again"
        if QUEUE_LABEL in (one["metadata"].get("labels") or {}):
            yield f"{where}: Kueue would start the template"
    for queue in of_kind(manifests, "LocalQueue"):
        if queue["metadata"]["name"] == "default":
            yield f"{name_of(queue)}: Kueue would put the template into it, and start that"


def growth(manifests: list[Manifest]) -> Iterator[str]:
    """A pod for each replica: as many at first as a training starts with, then the rest."""
    for pod, words in launchers(manifests):
        said = dict(word.split("=", 1) for word in words if "=" in word)
        if "--submit" in said:
            continue
        if said.get("--fewest") != said.get("cluster.min_replicas"):
            yield f"{pod.where}: waits for --fewest={said.get('--fewest')}, a training for another number"
        for ray in rays(manifests):
            for group in ray.groups:
                hosts = group["replicas"] * group.get("numOfHosts", 1)
                if str(hosts) != said.get("replicas"):
                    yield f"{ray.where}: {hosts} pods in {group['groupName']} for {said.get('replicas')} replicas"
                if group["maxReplicas"] != group["replicas"]:
                    yield f"{ray.where}: {group['groupName']} never gets its {group['maxReplicas']} replicas"
        rights = [rule for one in of_kind(manifests, "Role") for rule in one["rules"]]
        if not any("rayclusters" in rule["resources"] and "patch" in rule["verbs"] for rule in rights):
            yield f"{pod.where}: may not ask a RayCluster for the rest of its workers"


def heads(manifests: list[Manifest]) -> Iterator[str]:
    """No node is emptied below a head: with it goes the whole run. Workers may go at any time."""
    for ray in rays(manifests):
        found = ray.spec["headGroupSpec"]["template"]["metadata"].get("annotations", {})
        for annotation, value in _STAYS.items():
            if found.get(annotation) != value:
                yield f"{ray.where}: its head may be moved; the annotation {annotation} is not {value!r}"
        for group in ray.groups:
            for annotation in sorted(_STAYS.keys() & group["template"]["metadata"].get("annotations", {}).keys()):
                yield f"{ray.where}: {annotation} keeps nodes that {group['groupName']} could do without"


def autoscalers(manifests: list[Manifest]) -> Iterator[str]:
    for ray in rays(manifests):
        if not ray.spec.get("enableInTreeAutoscaling") or ray.spec.get("autoscalerOptions", {}).get("version") == "v1":
            continue
        for part in (ray.spec["headGroupSpec"], *ray.groups):
            if part["template"]["spec"].get("restartPolicy") != "Never":
                yield f"{ray.where}: the autoscaler (v2) wants restartPolicy Never everywhere"


def confinement(manifests: list[Manifest]) -> Iterator[str]:
    """More than Pod Security's `restricted` asks for."""
    for pod in pods(manifests):
        own = pod.spec.get("securityContext", {})
        if own.get("runAsNonRoot") is not True or not own.get("runAsUser"):
            yield f"{pod.where}: may run as root"
        if own.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{pod.where}: no seccomp profile"
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod.where}: Kubernetes sets variables such as MLFLOW_PORT in it"
        for container in pod.containers:
            where, its = f"{pod.where}: {container['name']}", container.get("securityContext", {})
            if its.get("allowPrivilegeEscalation") is not False or its.get("privileged"):
                yield f"{where}: may gain privileges"
            if its.get("capabilities", {}).get("drop") != ["ALL"] or its["capabilities"].get("add"):
                yield f"{where}: keeps capabilities"
            if its.get("readOnlyRootFilesystem") is not True:
                yield f"{where}: its root file system can be written to"
            if "/tmp" not in {mount["mountPath"] for mount in container.get("volumeMounts", [])}:
                yield f"{where}: has nowhere to write"
    for one in of_kind(manifests, "Namespace"):
        if (one["metadata"].get("labels") or {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{name_of(one)}: does not enforce restricted pods"


def resources(manifests: list[Manifest]) -> Iterator[str]:
    """Every container says what it needs and what it may take; one that stays is probed and stopped in time."""
    for pod in pods(manifests):
        for container in pod.containers:
            where, its = f"{pod.where}: {container['name']}", container.get("resources", {})
            for side in ("requests", "limits"):
                if not {"cpu", "memory"} <= set(its.get(side, {})):
                    yield f"{where}: {side} of cpu and memory are missing"
            if not pod.ends and container in pod.spec["containers"]:
                for probe in ("readinessProbe", "livenessProbe"):
                    if probe not in container:
                        yield f"{where}: no {probe}"
        if pod.labels.get(ROLE, "").startswith("ray-"):
            grace = pod.spec.get("terminationGracePeriodSeconds", 30)
            if not 60 < grace <= _NOTICE_SECONDS:
                yield f"{pod.where}: {grace} s to stop in; a checkpoint takes more than 60, a spot node has 120"


def accounts(manifests: list[Manifest]) -> Iterator[str]:
    """An account is somebody's: rights that no pod has are a pod that was forgotten."""
    used = {pod.spec.get("serviceAccountName") for pod in pods(manifests)}
    for one in of_kind(manifests, "ServiceAccount"):
        if one["metadata"]["name"] not in used:
            yield f"{name_of(one)}: no pod has it"


def backups(manifests: list[Manifest]) -> Iterator[str]:
    """Every database is dumped, by the program of its own version."""
    databases = [pod for pod in pods(manifests) if pod.kind == "StatefulSet"]
    dumping = [one for pod in pods(manifests) for one in pod.containers if one.get("command", [""])[0] == "pg_dump"]
    for pod in databases:
        (server,) = pod.spec["containers"]
        if server["image"] not in {one["image"] for one in dumping}:
            yield f"{pod.where}: nothing dumps it with {server['image']}"


def namespaces(manifests: list[Manifest]) -> Iterator[str]:
    """Whatever lives in a namespace lives in ours."""
    (own,) = [one["metadata"]["name"] for one in of_kind(manifests, "Namespace")]
    for one in manifests:
        outside = one["kind"] in ("Namespace", "ClusterQueue", "ResourceFlavor")
        if one["metadata"].get("namespace") != (None if outside else own):
            yield f"{name_of(one)}: is in the namespace {one['metadata'].get('namespace')}"


RULES: tuple[Rule, ...] = (
    schedules,
    tpus,
    images,
    ray_version,
    entry_points,
    tokens,
    name_lengths,
    templates,
    growth,
    heads,
    autoscalers,
    confinement,
    resources,
    networks,
    addresses,
    reaches,
    namespaces,
    accounts,
    backups,
    dangling,
    services,
    users,
    bindings,
)


def problems(manifests: list[Manifest]) -> dict[str, list[str]]:
    """What each rule finds; rules that find nothing are left out."""
    found = {rule.__name__: list(rule(manifests)) for rule in RULES}
    return {name: lines for name, lines in found.items() if lines}
