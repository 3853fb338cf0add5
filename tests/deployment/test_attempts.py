"""A launch whose cluster fails it: which ends are the cluster's, and the one attempt that follows."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.rayjob.attempts import following, leaving_seconds, lost
from pipelines.rayjob.launches import LONGEST_NAME, Launch, clone
from tests.deployment.kubernetes_api import MESSAGE, status
from tests.deployment.kubernetes_objects import Manifest, find
from tests.deployment.test_rayjob import JOB, RUNNING, TEMPLATE, UID, cluster, command, launch, template
from tests.patience import PATIENCE, wait_until

SECOND = f"{JOB}-2"
#: As KubeRay 1.7 puts it when a head has not answered for five minutes.
LOST = {
    "jobDeploymentStatus": "Failed",
    "jobStatus": "RUNNING",
    "reason": "JobStatusCheckTimeoutExceeded",
    "message": "The RayJob status could not be checked for 300 seconds",
    "startTime": "2026-11-02T02:17:30Z",
    "endTime": "2026-11-02T05:17:30Z",
}
GONE = "Submitter completed but Ray job not found in RayCluster."


def ended(reason: str, message: str = "", job: str = "RUNNING", state: str = "Failed") -> dict[str, Any]:
    return {
        "metadata": {},
        "spec": {},
        "status": {"jobDeploymentStatus": state, "jobStatus": job, "reason": reason, "message": message},
    }


@pytest.mark.parametrize(
    ("rayjob", "why"),
    [
        (ended("JobStatusCheckTimeoutExceeded"), "JobStatusCheckTimeoutExceeded"),
        (ended("PreRunningDeadlineExceeded", "", ""), "PreRunningDeadlineExceeded"),
        (ended("SubmissionFailed", "Job submission has failed. Reason: BackoffLimitExceeded"), "SubmissionFailed"),
        (ended("JobDeploymentStatusTransitionGracePeriodExceeded", "", "STOPPED"), "JobDeploymentStatusTransition"),
        (ended("AppFailed", GONE), "AppFailed"),
        (ended("AppFailed", "Unexpected error occurred: failed to get job supervisor.", "FAILED"), "AppFailed"),
        (ended("AppFailed", MESSAGE.format(143, "stopped"), "FAILED"), "exit code 143"),
        (ended("AppFailed", MESSAGE.format(-15, "stopped"), "FAILED"), "exit code -15"),
    ],
)
def test_an_end_that_the_application_has_not_made_is_the_clusters(rayjob: dict[str, Any], why: str) -> None:
    assert str(lost(rayjob)).startswith(why)
    second = following(Launch(TEMPLATE, JOB, UID), rayjob)
    assert second is not None
    assert second.name == SECOND
    assert following(second, rayjob) is None


@pytest.mark.parametrize(
    "rayjob",
    [
        *[ended("AppFailed", MESSAGE.format(code, "error"), "FAILED") for code in (1, 2, 10, 11, 12, 130, 137, -9)],
        ended("JobDeploymentStatusTransitionGracePeriodExceeded", MESSAGE.format(1, "error"), "FAILED"),
        ended("DeadlineExceeded"),
        ended("ValidationFailed", state="ValidationFailed"),
        ended("AReasonOfTheFuture"),
        ended("", "", "SUCCEEDED", "Complete"),
        ended("", "stopped by its user", "STOPPED", "Complete"),
        ended("SubmissionFailed", state="Retrying"),
        ended("JobStatusCheckTimeoutExceeded", state="Running"),
        {"metadata": {}, "spec": {}},
    ],
)
def test_every_other_end_stands(rayjob: dict[str, Any]) -> None:
    assert lost(rayjob) is None
    assert following(Launch(TEMPLATE, JOB, UID), rayjob) is None


def test_a_lost_head_is_followed_by_a_second_cluster(tmp_path: Path) -> None:
    with cluster([RUNNING, LOST, LOST, RUNNING, status("Failed", 10)]) as api:
        api.stored[TEMPLATE] = template(activeDeadlineSeconds=79200)
        code, out, err = launch(api, tmp_path)
        assert (code, err, api.created) == (0, "", [JOB, SECOND])
        first, second = api.stored[JOB], api.stored[SECOND]
    assert f"the cluster ended {JOB} (JobStatusCheckTimeoutExceeded); {SECOND} follows" in out
    assert out.splitlines()[-1].startswith("promoted")
    assert second["metadata"]["ownerReferences"] == first["metadata"]["ownerReferences"]
    assert second["metadata"]["labels"] == first["metadata"]["labels"]
    # Together they get the time that the template gives to one.
    assert second["spec"] == first["spec"] | {"activeDeadlineSeconds": 79200 - 3 * 3600}


def test_a_second_loss_is_the_end(tmp_path: Path) -> None:
    with cluster([RUNNING, LOST]) as api:
        code, _, err = launch(api, tmp_path)
        assert (code, api.created) == (1, [JOB, SECOND])
    assert err.strip() == f"failed: {LOST['message']}"


def test_what_the_retraining_says_is_final(tmp_path: Path) -> None:
    for end in (status("Failed", 1), status("Failed", 11), {**LOST, "reason": "DeadlineExceeded"}):
        with cluster([RUNNING, end]) as api:
            launch(api, tmp_path)
            assert api.created == [JOB]


def test_nothing_follows_where_no_time_is_left() -> None:
    first = Launch(TEMPLATE, JOB, UID)
    made = {**clone(template(activeDeadlineSeconds=3 * 3600), first, []), "status": LOST}
    assert following(first, made) is None
    made["spec"]["activeDeadlineSeconds"] += 1
    second = following(first, made)
    assert second is not None
    assert second.spent_seconds == 3 * 3600


def test_a_pod_that_is_started_again_goes_on_with_the_second_attempt(tmp_path: Path) -> None:
    with cluster([RUNNING, LOST, LOST, RUNNING]) as api:
        first = command(api, tmp_path)
        wait_until(lambda: SECOND in api.created, "the second RayJob is there", first)
        first.send_signal(signal.SIGTERM)
        assert first.wait(PATIENCE) == 143
        first.communicate()
        del api.stored[JOB]  # KubeRay can be told to delete what has ended.
        api.course = [RUNNING, status("Failed", 12)]
        code, out, _ = launch(api, tmp_path)
        assert (code, api.created) == (0, [JOB, SECOND])
    assert out.splitlines()[-1].startswith("rejected")


def test_a_second_attempt_of_another_job_is_not_taken_for_ours(tmp_path: Path) -> None:
    with cluster([status("Failed", 11)]) as api:
        api.stored[SECOND] = clone(template(), Launch(TEMPLATE, SECOND, "another"), []) | {"status": LOST}
        code, out, _ = launch(api, tmp_path)
        assert (code, api.created) == (0, [JOB])
    assert out.splitlines()[-1].startswith("held")


def test_the_second_attempt_waits_until_the_pods_of_the_first_are_gone(
    tmp_path: Path, overlays: dict[str, list[Manifest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its retraining finds the other one alive, has nothing to do, and is a success."""
    spec = find(overlays["gpu"], f"RayJob/{TEMPLATE}")["spec"]
    seconds = leaving_seconds({"spec": spec})
    grace = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert seconds == spec["ttlSecondsAfterFinished"] + grace
    assert leaving_seconds({"spec": {"rayClusterSpec": {"headGroupSpec": {"template": {"spec": {}}}}}}) == 30
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with cluster([RUNNING, LOST, LOST, RUNNING, status("Failed", 10)]) as api:
        api.stored[TEMPLATE]["spec"] = {**spec, "suspend": True}
        assert launch(api, tmp_path)[0] == 0
    assert slept.count(seconds) == 1


def test_names_of_second_attempts_fit_too() -> None:
    long = "nightly-retraining-of-bedrooms-on-the-large-pool"
    names = {Launch(TEMPLATE, job, attempt=attempt).name for job in (long, long + "b", JOB) for attempt in (1, 2)}
    assert len(names) == 6
    assert all(len(name) <= LONGEST_NAME for name in names)
