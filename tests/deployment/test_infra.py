"""infra/, but for Terraform: what can be known of it without an account, a container engine or a cluster.

Each check meets mutants that it must find out.
"""

from __future__ import annotations

import copy
import importlib.resources
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import jsonschema
import promql_parser
import pytest
import yaml
from ray._private.accelerators import tpu
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import ROOT

INFRA = ROOT / "infra"
#: What the service reports, with what Ray puts before it.
METRICS = {
    "ray_selfgan_images_per_second": {"run", "recipe"},
    "ray_selfgan_seconds_per_step": {"run", "recipe"},
    "ray_selfgan_data_wait_seconds_per_step": {"run", "recipe"},
    "ray_selfgan_loss_weight": {"run", "recipe", "term"},
    "ray_selfgan_step": {"run", "recipe"},
    "ray_selfgan_attempts": {"run", "recipe"},
}

# docker compose


def _compose_problems(text: str, example: str) -> list[str]:
    """What the Compose schema, and our own rules, have against a file and its example of an environment."""
    compose = yaml.safe_load(text)
    schema = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    validator = jsonschema.Draft7Validator(json.loads(schema.read_text()))
    found = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(compose)]
    declared = {line.partition("=")[0] for line in example.splitlines() if "=" in line and not line.startswith("#")}
    used = set(re.findall(r"\$\{(\w+)", text))
    found += [f"{name} is not in both the file and the example" for name in sorted(used ^ declared)]
    found += [f"{use} does not stop where it is not set" for use in re.findall(r"\$\{\w+\}|\$\{\w+:?-[^}]*\}", text)]
    found += [f"the example gives away {line}" for line in example.splitlines() if re.match(r"\w+=.", line)]
    for name, service in compose["services"].items():
        found += [f"{name}: {word}" for word in _service_problems(service, compose)]
    return found


def _service_problems(service: dict[str, Any], compose: dict[str, Any]) -> Iterator[str]:
    if not (service.get("build") or re.search(r":\d+\.\d[\w.-]*$", service.get("image", ""))):
        yield f"image {service.get('image')} is not pinned"
    for other, wait in service.get("depends_on", {}).items():
        if other not in compose["services"]:
            yield f"depends on {other}, which is not there"
        elif wait["condition"] == "service_healthy" and "healthcheck" not in compose["services"][other]:
            yield f"waits for the health of {other}, which has no healthcheck"
    if service.get("restart") != "no" and "healthcheck" not in service:
        yield "goes on without a healthcheck"
    for name, value in service.get("environment", {}).items():
        if re.search("PASSWORD|SECRET|TOKEN|KEY", name) and not str(value).startswith("${"):
            yield f"{name} stands in the file"
    yield from (f"port {port} is open to the network" for port in service.get("ports", []) if "127.0.0.1:" not in port)
    for volume in service.get("volumes", []):
        if volume.partition(":")[0] not in compose["volumes"]:
            yield f"volume {volume} is not declared"
    for config in service.get("configs", []):
        if config["source"] not in compose["configs"]:
            yield f"config {config['source']} is not declared"


def _compose() -> tuple[str, str]:
    return (INFRA / "compose.yaml").read_text(), (INFRA / "compose.env.example").read_text()


def test_the_compose_file_is_sound() -> None:
    assert _compose_problems(*_compose()) == []
    assert "compose.env" in (ROOT / ".gitignore").read_text().split() or not (INFRA / "compose.env").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("healthcheck:", "health_check:"),
        ("timeout: 5s", "timeout: [5]"),
        ("postgres:17.6-bookworm", "postgres:latest"),
        ("chrislusf/seaweedfs:4.47", "chrislusf/seaweedfs"),
        ("      postgres:\n        condition", "      postgresql:\n        condition"),
        ("RAY_AUTH_TOKEN: ${RAY_AUTH_TOKEN:?set it in infra/compose.env}", "RAY_AUTH_TOKEN: secret"),
        ("${RAY_AUTH_TOKEN:?set it in infra/compose.env}", "${RAY_TOKEN:?set it in infra/compose.env}"),
        ("${RAY_AUTH_TOKEN:?set it in infra/compose.env}", "${RAY_AUTH_TOKEN}"),
        ("${RAY_AUTH_TOKEN:?set it in infra/compose.env}", "${RAY_AUTH_TOKEN:-token}"),
        ('"127.0.0.1:5000:5000"', '"5000:5000"'),
        ('"home:/home/selfgan"', '"house:/home/selfgan"'),
        ("source: mlflow", "source: mlflow.ini"),
    ],
)
def test_a_broken_compose_file_is_found_out(old: str, new: str) -> None:
    text, example = _compose()
    assert old in text
    assert _compose_problems(text.replace(old, new), example)


def test_an_example_that_gives_a_secret_away_is_found_out() -> None:
    text, example = _compose()
    assert _compose_problems(text, example.replace("RAY_AUTH_TOKEN=", "RAY_AUTH_TOKEN=token"))


# Ray's cluster launcher


def _cluster(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((INFRA / f"ray-cluster-{name}.yaml").read_text())
    return loaded


def _check_cluster(cluster: dict[str, Any]) -> None:
    """Raises what the launcher would; and what it would find out too late."""
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    assert not [word for word in prepared["setup_commands"] if "pip install" in word], (
        "Ray is installed over the image's"
    )
    assert not prepared["docker"]["image"].endswith(":latest")
    assert any("RAY_AUTH_MODE=token" in option for option in cluster["docker"]["run_options"]), "anybody can run code"
    starts = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    assert not any("--dashboard-host=0.0.0.0" in command for command in starts), "the dashboard is open to the network"
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}, "replicas run on the head"
    for kind in cluster["available_node_types"].values():
        if accelerator := kind["node_config"].get("acceleratorConfig"):
            chips = tpu.get_num_chips_from_topology(accelerator["topology"])
            hosts = tpu.get_num_tpu_visible_chips_per_host(f"v5litepod-{chips}")
            assert (accelerator["type"], chips % hosts) == ("V5LITE_POD", 0)
            assert kind["resources"] == {"TPU": hosts}, "a host of the slice has other chips"


@pytest.mark.parametrize("name", ["gpu", "tpu"])
def test_ray_would_launch_the_cluster(name: str) -> None:
    _check_cluster(_cluster(name))


def test_a_broken_cluster_is_found_out() -> None:
    def broken(name: str, *path: str, value: object) -> dict[str, Any]:
        cluster = _cluster(name)
        inner = cluster
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        return cluster

    for cluster in (
        broken("gpu", "max_worker", value=8),
        broken("gpu", "max_workers", value="eight"),
        broken("gpu", "head_node_type", value="boss"),
        broken("gpu", "available_node_types", "gpu", "min_workers", value=9),
        broken("gpu", "available_node_types", "gpu", "InstanceType", value="g6.xlarge"),
        broken("gpu", "docker", "run_options", value=[]),
        broken("gpu", "setup_commands", value=["pip install ray"]),
        broken("tpu", "available_node_types", "slice", "resources", value={"TPU": 16}),
        broken("tpu", "available_node_types", "slice", "node_config", "acceleratorConfig", "topology", value="1x2"),
        broken("tpu", "available_node_types", "head", "resources", value={"CPU": 4}),
    ):
        with pytest.raises((AssertionError, ValueError, KeyError, jsonschema.ValidationError)):
            _check_cluster(cluster)


# Prometheus and Grafana


def _selectors(query: Any) -> Iterator[tuple[str, set[str]]]:
    """Each metric that a parsed query asks for, with the labels it is picked by; grouping labels have no metric."""
    if hasattr(query, "matchers"):
        yield query.name, {matcher.name for matcher in query.matchers.matchers}
    if isinstance(query, promql_parser.AggregateExpr) and query.modifier:
        labels = set(query.modifier.labels)
        yield from ((name, labels) for name, _ in list(_selectors(query.expr)))
    parts = [getattr(query, name, None) for name in ("lhs", "rhs", "expr", "vector_selector")]
    for part in [*parts, *getattr(query, "args", [])]:
        if part is not None:
            yield from _selectors(part)


def _query_problems(query: str, known: dict[str, set[str]]) -> list[str]:
    try:
        selectors = list(_selectors(promql_parser.parse(query)))
    except ValueError as error:
        return [f"{query}: {error}"]
    found = [f"{query}: {name} is not a metric" for name, _ in selectors if name not in known]
    return found + [
        f"{query}: {name} has no label {label}"
        for name, labels in selectors
        for label in sorted(labels - known.get(name, labels))
    ]


def _rule_problems(text: str) -> list[str]:
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    recorded = {rule["record"]: {"run", "recipe"} for rule in rules if "record" in rule}
    found = [word for rule in rules for word in _query_problems(rule["expr"], METRICS | recorded)]
    alerts = [rule for rule in rules if "alert" in rule]
    for alert in alerts:
        if not {"summary", "description"} <= set(alert.get("annotations", {})) or "severity" not in alert.get(
            "labels", {}
        ):
            found.append(f"{alert['alert']} does not say what to do, or how urgently")
    wanted = {"SelfganNoProgress", "SelfganRestarts", "SelfganWaitsForData", "SelfganLossWeightZero"}
    return found + [f"no alert {name}" for name in sorted(wanted - {alert["alert"] for alert in alerts})]


def test_the_alerts_ask_for_what_the_service_reports() -> None:
    assert _rule_problems((INFRA / "prometheus-rules.yaml").read_text()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(ray_selfgan_step[", "(ray_selfgan_steps["),
        ("(ray_selfgan_step[", "(selfgan_step["),
        ("[1h] offset 16m", "[1h] offset fifteen"),
        ("selfgan:data_wait_ratio > 0.3", "selfgan:wait_ratio > 0.3"),
        ("by (run, recipe, term)", "by (run, recipe, name)"),
        ("alert: SelfganRestarts", "alert: Restarts"),
        ("severity: critical", "urgency: critical"),
        ("[1h])", "[1h]"),
    ],
)
def test_a_broken_alert_is_found_out(old: str, new: str) -> None:
    text = (INFRA / "prometheus-rules.yaml").read_text()
    assert old in text
    assert _rule_problems(text.replace(old, new, 1))


def test_the_alerts_fire_when_they_should() -> None:
    if not shutil.which("promtool"):
        pytest.skip("ALERTS NOT PLAYED THROUGH: promtool is not installed (Debian: prometheus); they were only parsed")
    done = subprocess.run(
        ["promtool", "test", "rules", str(INFRA / "prometheus-tests.yaml")], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def _dashboard_problems(dashboard: dict[str, Any]) -> list[str]:
    variables = {entry["name"]: entry for entry in dashboard["templating"]["list"]}
    found = [] if variables.get("datasource", {}).get("type") == "datasource" else ["there is no datasource to choose"]
    panels = dashboard["panels"]
    if len({panel["id"] for panel in panels}) != len(panels):
        found.append("two panels have one id")
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    found += [word for query in queries for word in _query_problems(query.replace("$", ""), METRICS)]
    text = json.dumps(dashboard)
    found += [f"${name} is not a variable" for name in set(re.findall(r"\$\{?(\w+)", text)) - {*variables, "__all"}]
    sources = [part["datasource"]["uid"] for panel in panels for part in [panel, *panel["targets"]]]
    found += [f"datasource {uid} is of one installation" for uid in sources if uid != "${datasource}"]
    return found + [f"{name} is not shown" for name in METRICS if not any(name in query for query in queries)]


def test_the_dashboard_shows_what_the_service_reports() -> None:
    assert _dashboard_problems(json.loads((INFRA / "grafana-dashboard.json").read_text())) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(ray_selfgan_attempts{", "(ray_selfgan_restarts{"),
        ('"uid": "${datasource}"\n      },\n      "gridPos"', '"uid": "PBFA97CFB590B2093"\n      },\n      "gridPos"'),
        ('"type": "datasource"', '"type": "textbox"'),
        ('run=~\\"$run\\"', 'run=~\\"$which\\"'),
        ("by (run, recipe, term)", "by (run, recipe, terms)"),
        ('"id": 2', '"id": 1'),
        ("max by (run, recipe) (", "max by (run, recipe ("),
    ],
)
def test_a_broken_dashboard_is_found_out(old: str, new: str) -> None:
    text = (INFRA / "grafana-dashboard.json").read_text()
    assert old in text
    assert _dashboard_problems(json.loads(text.replace(old, new, 1)))
