"""How many workers a RayJob starts with, and how the rest is added. All of it pure.

KubeRay submits a job when all pods that its cluster asks for run. A cluster that asks for the fewest first is ready
when those are there; asked for more once the job runs, it takes them as they come, and the training grows.
"""

from __future__ import annotations

import math
from typing import Any

from pipelines.rayjob.launches import Launch, Resource

Patch = list[dict[str, Any]]


def reduced(template: Resource, launch: Launch) -> Resource:
    """The template with as many workers as hold the launch's fewest replicas; what it asked for is the most.

    One of several groups is as it was: which of them is to wait, nobody has said.
    """
    cluster = template["spec"].get("rayClusterSpec", {})
    groups = cluster.get("workerGroupSpecs", [])
    if launch.fewest is None or not launch.grows or len(groups) != 1:
        return template
    (group,) = groups
    whole = group["replicas"]
    first = min(whole, max(1, math.ceil(launch.fewest / group.get("numOfHosts", 1))))
    small = {"replicas": first, "minReplicas": min(first, group.get("minReplicas", 0)), "maxReplicas": whole}
    started = {**cluster, "workerGroupSpecs": [{**group, **small}]}
    return {**template, "spec": {**template["spec"], "rayClusterSpec": started}}


def growth(rayjob: Resource, launch: Launch) -> tuple[str, Patch] | None:
    """The cluster of a RayJob whose job runs, and the patch that asks for all its workers; None if it has."""
    status, groups = rayjob.get("status") or {}, rayjob["spec"].get("rayClusterSpec", {}).get("workerGroupSpecs", [])
    running = launch.grows and status.get("jobDeploymentStatus") == "Running"
    if not running or not status.get("rayClusterName") or len(groups) != 1:
        return None
    (group,) = groups
    if group["replicas"] >= group["maxReplicas"]:
        return None
    at = "/spec/workerGroupSpecs/0"
    return status["rayClusterName"], [
        {"op": "test", "path": f"{at}/groupName", "value": group["groupName"]},
        {"op": "replace", "path": f"{at}/replicas", "value": group["maxReplicas"]},
    ]
