"""A retraining starts with the fewest workers that it can use, and asks for the rest once it runs."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from pipelines.rayjob.launches import Launch, clone
from pipelines.rayjob.workers import growth, reduced
from tests.deployment import kubernetes_schemas
from tests.deployment.kubernetes_api import status
from tests.deployment.kubernetes_objects import Manifest, find, launchers
from tests.deployment.test_attempts import LOST, SECOND
from tests.deployment.test_rayjob import JOB, TEMPLATE, UID, cluster, command, launch, template
from tests.patience import PATIENCE, wait_until

RUNNING = {**status("Running"), "rayClusterName": f"{JOB}-x7k2p"}
FEW, FAST = Launch(TEMPLATE, JOB, UID, fewest=2), "--poll-seconds=0.05"
ENTIRE: list[dict[str, Any]] = [
    {"op": "test", "path": "/spec/workerGroupSpecs/0/groupName", "value": "replicas"},
    {"op": "replace", "path": "/spec/workerGroupSpecs/0/replicas", "value": 4},
]


def with_workers(*groups: dict[str, Any], **cluster: Any) -> dict[str, Any]:
    return template(rayClusterSpec={"workerGroupSpecs": list(groups), **cluster})


def four(**fields: Any) -> dict[str, Any]:
    return {"groupName": "replicas", "replicas": 4, "minReplicas": 0, "maxReplicas": 4, **fields}


def groups_of(rayjob: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return found


@pytest.mark.parametrize(
    ("group", "fewest", "started"),
    [
        (four(), 2, 2),
        (four(), 4, 4),
        (four(), 9, 4),
        (four(), 0, 1),
        (four(numOfHosts=2), 3, 2),
        (four(replicas=1, maxReplicas=1, numOfHosts=4), 4, 1),
    ],
)
def test_a_cluster_starts_with_the_workers_that_hold_its_fewest_replicas(
    group: dict[str, Any], fewest: int, started: int
) -> None:
    made = reduced(with_workers(group, rayVersion="2"), Launch(TEMPLATE, JOB, fewest=fewest))
    assert groups_of(made) == [{**group, "replicas": started, "maxReplicas": group["replicas"]}]
    assert made["spec"]["rayClusterSpec"]["rayVersion"] == "2"


def test_kuberay_is_not_told_to_raise_it_again() -> None:
    """It asks for `minReplicas` where `replicas` are fewer."""
    assert groups_of(reduced(with_workers(four(minReplicas=3)), FEW))[0]["minReplicas"] == 2


@pytest.mark.parametrize(
    "unchanged",
    [
        (with_workers(four()), Launch(TEMPLATE, JOB)),
        (with_workers(four()), Launch(TEMPLATE, JOB, queue="night", fewest=2)),
        (with_workers(four(), four(groupName="others")), FEW),
        (with_workers(), FEW),
        (template(), FEW),
    ],
)
def test_all_workers_are_waited_for_where_none_may_come_later(unchanged: tuple[dict[str, Any], Launch]) -> None:
    given, asked = unchanged
    assert reduced(given, asked) == given
    assert growth({**given, "status": RUNNING}, asked) is None


def test_the_rest_is_asked_for_when_the_job_runs_and_not_before() -> None:
    made = clone(reduced(with_workers(four()), FEW), FEW, [])
    assert growth({**made, "status": RUNNING}, FEW) == (f"{JOB}-x7k2p", ENTIRE)
    assert growth(made, FEW) is None
    assert growth({**made, "status": {**RUNNING, "jobDeploymentStatus": "Initializing"}}, FEW) is None
    assert growth({**made, "status": status("Running")}, FEW) is None
    whole = clone(with_workers(four()), FEW, [])
    assert growth({**whole, "status": RUNNING}, FEW) is None


def test_a_training_starts_small_and_grows(tmp_path: Path) -> None:
    with cluster([status("Initializing"), RUNNING, RUNNING, RUNNING, status("Failed", 10)]) as api:
        api.stored[TEMPLATE] = with_workers(four())
        code, out, err = launch(api, tmp_path, "--fewest=2")
        assert (code, err) == (0, "")
        assert groups_of(api.stored[JOB])[0]["replicas"] == 2
        assert api.patches == [(f"{JOB}-x7k2p", "application/json-patch+json", ENTIRE)]
    assert f"{JOB} runs, and its cluster asks for the rest of its workers" in out


def test_a_second_cluster_starts_small_too(tmp_path: Path) -> None:
    other = {**RUNNING, "rayClusterName": f"{SECOND}-a1b2c"}
    with cluster([RUNNING, RUNNING, LOST, LOST, other, other, status("Failed", 10)]) as api:
        api.stored[TEMPLATE] = with_workers(four(template={"spec": {"terminationGracePeriodSeconds": 0}}))
        api.stored[TEMPLATE]["spec"]["rayClusterSpec"]["headGroupSpec"] = {
            "template": {"spec": {"terminationGracePeriodSeconds": 0}}
        }
        assert launch(api, tmp_path, "--fewest=2")[0] == 0
        assert groups_of(api.stored[SECOND])[0]["replicas"] == 2
        assert [name for name, *_ in api.patches] == [f"{JOB}-x7k2p", f"{SECOND}-a1b2c"]


def test_a_pod_that_is_started_again_asks_for_the_rest_too(tmp_path: Path) -> None:
    with cluster([status("Initializing")]) as api:
        api.stored[TEMPLATE] = with_workers(four())
        first = command(api, tmp_path, "--fewest=2")
        wait_until(lambda: JOB in api.created, "the RayJob is there", first)
        first.send_signal(signal.SIGTERM)
        assert first.wait(PATIENCE) == 143
        first.communicate()
        api.course = [RUNNING, RUNNING, status("Complete", 0)]
        assert launch(api, tmp_path, "--fewest=2")[0] == 0
        assert len(api.patches) == 1


@pytest.mark.parametrize("refusal", [403, 404, 409, 422])
def test_a_cluster_that_takes_no_more_workers_is_no_failure(tmp_path: Path, refusal: int) -> None:
    with cluster([RUNNING, RUNNING, RUNNING, status("Failed", 11)]) as api:
        api.stored[TEMPLATE] = with_workers(four())
        api.refused = refusal
        code, out, err = launch(api, tmp_path, "--fewest=2")
        assert (code, err, len(api.patches)) == (0, "", 1)
    assert "takes no more workers than it has" in out


def test_a_cluster_that_is_there_is_not_asked_for_fewer(tmp_path: Path) -> None:
    with cluster() as api:
        code, _, err = launch(api, tmp_path, "--fewest=2", "--submit=http://127.0.0.1:9")
        assert (code, api.requests) == (2, [])
    assert "--fewest: a cluster that is there" in err


@pytest.mark.parametrize(("overlay", "started", "whole"), [("gpu", 2, 4), ("tpu", 1, 1)])
def test_the_overlays_start_with_their_min_replicas(
    overlays: dict[str, list[Manifest]], crds: Path, overlay: str, started: int, whole: int
) -> None:
    ((_, words),) = launchers(overlays[overlay])
    (fewest,) = [int(word.removeprefix("--fewest=")) for word in words if word.startswith("--fewest=")]
    launched = Launch(TEMPLATE, JOB, UID, fewest=fewest)
    made = clone(reduced(find(overlays[overlay], f"RayJob/{TEMPLATE}"), launched), launched, words)
    assert (groups_of(made)[0]["replicas"], groups_of(made)[0]["maxReplicas"]) == (started, whole)
    assert kubernetes_schemas.problems(made, crds) == []
