"""The manifests, as `kubectl apply -k` would send them: schemas, rules, and mutants that show that each can fail."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from service.configuration.recipe import load
from service.runs.driver.cluster import replicas
from tests.conftest import ROOT
from tests.deployment import kubernetes_rules, kubernetes_schemas
from tests.deployment.conftest import CRDS, OVERLAYS
from tests.deployment.kubernetes_mutants import (
    AGENT,
    BUCKET,
    CLUSTER,
    CRON,
    GONE,
    GROUP,
    HEAD,
    JOB,
    LAUNCHER,
    MLFLOW,
    MUTANTS,
    RAY,
    WORKER,
    Edit,
)
from tests.deployment.kubernetes_objects import ROLE, Manifest, find, launchers, name_of, of_kind, pods, selected


def changed(manifests: list[Manifest], name: str, path: str, value: Any) -> list[Manifest]:
    """The manifests, one field of one of them set or (`GONE`) taken away."""
    mutant = copy.deepcopy(manifests)
    at: Any = find(mutant, name)
    *way, last = path.split(".")
    for key in way:
        at = at[int(key)] if isinstance(at, list) else at[key]
    if value is GONE:
        del at[int(last) if isinstance(at, list) else last]
    elif isinstance(at, list):
        at[int(last)] = value
    else:
        at[last] = value
    return mutant


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_fit_the_schemas_of_kubernetes(overlays: dict[str, list[Manifest]], overlay: str) -> None:
    built_in = [one for one in overlays[overlay] if not one["apiVersion"].startswith("ray.io/")]
    found = {name_of(one): kubernetes_schemas.problems(one, CRDS) for one in built_in}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_fit_the_schemas_of_kuberay(overlays: dict[str, list[Manifest]], overlay: str, crds: Path) -> None:
    rays = [one for one in overlays[overlay] if one["apiVersion"].startswith("ray.io/")]
    assert [name_of(one) for one in rays] == [RAY if overlay == "local" else JOB]
    assert [line for one in rays for line in kubernetes_schemas.problems(one, crds)] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_hold_the_rules(overlays: dict[str, list[Manifest]], overlay: str) -> None:
    assert kubernetes_rules.problems(overlays[overlay]) == {}


@pytest.mark.parametrize(
    ("overlay", "name", "path", "value", "said"),
    [
        ("gpu", CRON, "spec.concurencyPolicy", "Forbid", "'concurencyPolicy' was unexpected"),
        ("gpu", CRON, "spec.failedJobsHistoryLimit", "7", "'7' is not of type 'integer'"),
        ("gpu", CRON, "spec.schedule", GONE, "'schedule' is a required property"),
        ("gpu", CRON, f"{LAUNCHER}.containers.0.imagePullPolicie", "Always", "'imagePullPolicie' was unexpected"),
        ("gpu", MLFLOW, "spec.template.spec.containers.0.resources.limits.memory", [1], "is not valid under any"),
        ("gpu", "NetworkPolicy/ray", "spec.ingres", [], "'ingres' was unexpected"),
        ("gpu", "NetworkPolicy/ray", "apiVersion", "networking.k8s.io/v2", "Couldn't find schema"),
        ("gpu", JOB, "spec.suspendd", True, "'suspendd' was unexpected"),
        ("gpu", JOB, f"{WORKER}.containers.0.ressources", {}, "'ressources' was unexpected"),
        ("gpu", JOB, f"{GROUP}.replicas", "4", "'4' is not of type 'integer'"),
        ("gpu", JOB, f"{GROUP}.rayStartParams", {"num-cpus": 0}, "0 is not of type 'string'"),
        ("gpu", JOB, f"{WORKER}.containers.0.resources.limits.cpu", 1.5, "is not valid under any of the given schemas"),
        ("gpu", JOB, f"{WORKER}.containers.0.resources.limits.cpu", "four", "does not match"),
        ("gpu", JOB, f"{CLUSTER}.authOptions.mode", "tokens", "'tokens' is not one of ['disabled', 'token']"),
        ("gpu", JOB, f"{CLUSTER}.headGroupSpec.template", GONE, "'template' is a required property"),
        ("gpu", JOB, f"{CLUSTER}.headGroupSpec.template.metadata.label", {}, "'label' was unexpected"),
        ("gpu", JOB, f"{WORKER}.containers.0.env.1.name", "MLFLOW_TRACKING_USERNAME", "is there twice"),
        ("gpu", JOB, "apiVersion", "ray.io/v1beta9", "has no RayJob"),
        ("local", RAY, f"{HEAD}.containers.0.image".replace("spec.rayClusterSpec", "spec"), 7, "7 is not of type"),
        ("local", RAY, "spec.entrypoint", "python", "'entrypoint' was unexpected"),
    ],
)  # fmt: skip
def test_schemas_refuse_mutants(
    overlays: dict[str, list[Manifest]], crds: Path, overlay: str, name: str, path: str, value: Any, said: str
) -> None:
    mutant = find(changed(overlays[overlay], name, path, value), name)
    found = kubernetes_schemas.problems(mutant, crds)
    assert any(said in line for line in found), found


def test_a_default_satisfies_what_is_required() -> None:
    """A Service's port needs a protocol as the key of its list, and has TCP where none is given."""
    schema = {
        "type": "object",
        "required": ["protocol"],
        "properties": {"protocol": {"type": "string", "default": "TCP"}},
    }
    assert kubernetes_schemas.defaulted({}, schema) == {"protocol": "TCP"}
    assert kubernetes_schemas.defaulted({"protocol": "UDP"}, schema) == {"protocol": "UDP"}


def test_unknown_fields_pass_only_where_a_crd_preserves_them() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    made = kubernetes_schemas.strict(schema)
    assert made["additionalProperties"] is False
    assert "additionalProperties" not in made["properties"]["a"]


@pytest.mark.parametrize(("rule", "edit", "said"), MUTANTS, ids=[f"{rule}-{said}" for rule, _, said in MUTANTS])
def test_rules_refuse_mutants(overlays: dict[str, list[Manifest]], rule: str, edit: Edit, said: str) -> None:
    overlay, *change = edit
    found = kubernetes_rules.problems(changed(overlays[overlay], *change))
    assert any(said in line for line in found.get(rule, [])), found


def test_the_autoscaler_wants_pods_that_do_not_restart(overlays: dict[str, list[Manifest]]) -> None:
    scaled = changed(overlays["gpu"], JOB, f"{CLUSTER}.enableInTreeAutoscaling", True)
    assert "autoscalers" not in kubernetes_rules.problems(scaled)
    found = kubernetes_rules.problems(changed(scaled, JOB, f"{WORKER}.restartPolicy", "Always"))
    assert "restartPolicy Never" in found["autoscalers"][0]


def test_every_rule_has_a_mutant() -> None:
    rules = {rule.__name__ for rule in kubernetes_rules.RULES}
    assert {rule for rule, _, _ in MUTANTS} | {"autoscalers"} == rules


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ("gpu", "replicas=4 cluster.min_replicas=2 cluster.accelerator=cuda"),
        (
            "tpu",
            "replicas=4 cluster.min_replicas=4 cluster.accelerator=xla cluster.tpu=v5litepod cluster.topology=4x4",
        ),
        ("local", "replicas=2 cluster.min_replicas=1 cluster.accelerator=cpu"),
    ],
)
def test_the_configuration_reaches_the_launchers_words(
    overlays: dict[str, list[Manifest]], overlay: str, words: str
) -> None:
    ((_, found),) = launchers(overlays[overlay])
    assert found[-len(words.split()) :] == words.split()
    assert "tracking.uri=http://mlflow:5000" in found


@pytest.mark.parametrize("overlay", ["gpu", "tpu", "local"])
def test_the_launchers_words_are_a_run(overlays: dict[str, list[Manifest]], overlay: str) -> None:
    ((_, found),) = launchers(overlays[overlay])
    mark = "pipelines.retrain" if "pipelines.retrain" in found else "--"
    recipe, *words = found[found.index(mark) + 1 :]
    run = load(recipe, words)
    assert run.evaluation.cache and run.evaluation.features  # Training may not write where the data lie.
    assert run.tracking_uri == "http://mlflow:5000"


def test_the_clouds_roles_are_for_accounts_that_there_are(overlays: dict[str, list[Manifest]]) -> None:
    accounts = {one["metadata"]["name"] for one in of_kind(overlays["gpu"], "ServiceAccount")}
    (line,) = re.findall(r"accounts = \{(.*)\}", (ROOT / "infra" / "terraform" / "roles.tf").read_text())
    named = set(re.findall(r'"([\w-]+)"', line))
    assert named == {"selfgan-ingest", "selfgan-ray", "selfgan-mlflow", "selfgan-backup"}
    assert named <= accounts


def test_the_hosts_of_the_slice_are_the_replicas(
    overlays: dict[str, list[Manifest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the service counts them, before the slice is up."""
    ((_, found),) = launchers(overlays["tpu"])
    run = load(found[found.index("--") + 1], found[found.index("--") + 2 :])
    monkeypatch.setattr("ray.nodes", list)
    asked = replicas(run)
    group = find(overlays["tpu"], JOB)["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    spec = group["template"]["spec"]
    assert asked.accelerator == "xla"
    assert asked.scaling.num_workers == group["numOfHosts"] == run.replicas
    assert asked.scaling.resources_per_worker["TPU"] == int(
        spec["containers"][0]["resources"]["limits"]["google.com/tpu"]
    )
    assert spec["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": {"v5litepod": "tpu-v5-lite-podslice"}[str(run.cluster.tpu)],
        "cloud.google.com/gke-tpu-topology": run.cluster.topology,
    }
    assert group["replicas"] == group["maxReplicas"] == 1  # Slices.


@pytest.mark.parametrize("overlay", ["gpu", "tpu", "local"])
def test_workers_and_replicas_agree(overlays: dict[str, list[Manifest]], overlay: str) -> None:
    manifests = overlays[overlay]
    images = {pod.labels.get("selfgan.io/role"): pod.spec["containers"][0]["image"] for pod in pods(manifests)}
    assert images["ray-head"] == images["ray-worker"]
    assert images["launcher"].endswith("-cpu")


def test_mlflow_is_called_by_names_that_it_answers_to(overlays: dict[str, list[Manifest]]) -> None:
    arguments = find(overlays["gpu"], MLFLOW)["spec"]["template"]["spec"]["containers"][0]["args"]
    (hosts,) = [word.partition("=")[2].split(",") for word in arguments if word.startswith("--allowed-hosts=")]
    assert {"mlflow", "mlflow:5000", "mlflow.selfgan", "mlflow.selfgan:5000"} <= set(hosts)
    assert {host for host in hosts if ":" in host} == {f"{host}:5000" for host in hosts if ":" not in host}
    assert "*" not in "".join(hosts)


def test_a_change_of_the_configuration_changes_every_name_of_it(overlays: dict[str, list[Manifest]]) -> None:
    for overlay in ("gpu", "local"):
        (name,) = {
            one["metadata"]["name"] for one in of_kind(overlays[overlay], "ConfigMap") if "RECIPE" in one["data"]
        }
        assert name != "selfgan"
        assert str(overlays[overlay]).count(f"'name': '{name}'") >= 6


@pytest.mark.parametrize(("overlay", "name"), [("gpu+store-port", f"{BUCKET}-port"), ("gpu+pod-identity", AGENT)])
def test_components_open_their_ports_to_whoever_uses_the_bucket(
    overlays: dict[str, list[Manifest]], overlay: str, name: str
) -> None:
    manifests = overlays[overlay]
    assert find(manifests, name)["spec"]["podSelector"] == find(manifests, BUCKET)["spec"]["podSelector"]
    assert find(manifests, name)["metadata"]["namespace"] == "selfgan"


def test_where_the_stores_addresses_are_known_replicas_reach_no_other_host(overlays: dict[str, list[Manifest]]) -> None:
    def outside(overlay: str) -> set[str]:
        rules = [
            rule
            for one in of_kind(overlays[overlay], "NetworkPolicy")
            if selected({ROLE: "ray-worker"}, one["spec"]["podSelector"])
            for rule in one["spec"].get("egress", [])
        ]
        assert all(rule["to"] for rule in rules)  # Without it, a rule means every address.
        return {peer["ipBlock"]["cidr"] for rule in rules for peer in rule["to"] if "ipBlock" in peer}

    dns = {"169.254.20.10/32"}
    assert outside("gpu") == {"0.0.0.0/0", "::/0"} | dns
    assert outside("gpu+store-addresses") == {"192.0.2.0/24", "2001:db8::/32"} | dns
