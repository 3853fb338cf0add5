"""infra/, but for Terraform: what can be known of it without an account, a container engine or a cluster.

Each check meets mutants that it must find out.
"""

from __future__ import annotations

import copy
import importlib.resources
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from ray._private.accelerators import tpu
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import ROOT

INFRA = ROOT / "infra"

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
