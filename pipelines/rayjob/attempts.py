"""Which ends are the application's and which the cluster's, and what follows the latter. All of it pure."""

from __future__ import annotations

import signal
from dataclasses import replace
from datetime import datetime

from pipelines.exit_codes import ExitCode
from pipelines.rayjob.launches import Launch, Resource, stated_code

MOST_ATTEMPTS = 2
#: KubeRay's reasons for an end that may be due to pods, nodes or the network. `AppFailed` is one of them where Ray
#: knows no exit code: the head came back without the job, or the process that watched over it died.
_CLUSTERS_REASONS = (
    "AppFailed",
    "JobDeploymentStatusTransitionGracePeriodExceeded",
    "JobStatusCheckTimeoutExceeded",
    "PreRunningDeadlineExceeded",
    "SubmissionFailed",
)
#: How an application ends whose pod is stopped.
_STOPPED = (ExitCode.TERMINATED, -signal.SIGTERM)
_KUBERNETES_GRACE_SECONDS = 30


def lost(rayjob: Resource) -> str | None:
    """Why the cluster ended a RayJob; None if it goes on, or was ended by its application, a deadline or a person."""
    status = rayjob.get("status") or {}
    reason, code = status.get("reason"), stated_code(str(status.get("message") or ""))
    if status.get("jobDeploymentStatus") != "Failed" or reason not in _CLUSTERS_REASONS:
        return None
    if code is None:
        return str(reason)
    return f"exit code {code}" if code in _STOPPED else None


def following(launch: Launch, rayjob: Resource) -> Launch | None:
    """The attempt to make after this one; None if its end stands, or no time is left for another."""
    if lost(rayjob) is None or launch.attempt >= MOST_ATTEMPTS:
        return None
    active, deadline = _active_seconds(rayjob), rayjob["spec"].get("activeDeadlineSeconds")
    if deadline is not None and active >= deadline:
        return None
    return replace(launch, attempt=launch.attempt + 1, spent_seconds=launch.spent_seconds + active)


def leaving_seconds(rayjob: Resource) -> int:
    """How long the pods of a RayJob that has ended may still be there.

    A retraining that finds another one alive does nothing, and calls that a success.
    """
    spec = rayjob["spec"]
    cluster = spec.get("rayClusterSpec")
    if cluster is None:
        return 0
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    graces = [group["template"]["spec"].get("terminationGracePeriodSeconds") for group in groups]
    longest = max(_KUBERNETES_GRACE_SECONDS if grace is None else grace for grace in graces)
    return int(spec.get("ttlSecondsAfterFinished", 0) + longest)


def _active_seconds(rayjob: Resource) -> int:
    """From the start, which is when KubeRay begins to count, to the end; 0 if it never started."""
    status = rayjob["status"]
    if not (status.get("startTime") and status.get("endTime")):
        return 0
    start, end = (datetime.fromisoformat(status[key]) for key in ("startTime", "endTime"))
    return max(0, int((end - start).total_seconds()))
