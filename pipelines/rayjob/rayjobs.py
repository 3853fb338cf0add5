"""RayJobs of a Kubernetes namespace: looked up, cloned from a suspended template, and given more workers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pipelines.rayjob.attempts import MOST_ATTEMPTS
from pipelines.rayjob.launches import (
    TEMPLATE_LABEL,
    Launch,
    LaunchError,
    Outcome,
    Resource,
    belongs,
    clone,
    overlap,
    running,
)
from pipelines.rayjob.workers import Patch, reduced

T = TypeVar("T")
_GROUP = {"group": "ray.io", "version": "v1"}
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_REQUEST_SECONDS = 30
_JSON_PATCH = "application/json-patch+json"  # Else a patch says that it is merged, and replaces whole lists.


class RayJobs:
    """The RayJobs of a namespace, over an API that may fail for a while."""

    def __init__(self, namespace: str | None, poll_seconds: float, patience_seconds: float) -> None:
        import tenacity
        import urllib3
        from kubernetes import client, config

        try:
            config.load_incluster_config()
        except config.ConfigException:  # On a person's machine, then.
            try:
                config.load_kube_config()
            except config.ConfigException as error:
                raise LaunchError(f"no Kubernetes cluster to talk to: {error}") from error
        own = _NAMESPACE.read_text().strip() if _NAMESPACE.exists() else "default"
        self._clusters = {**_GROUP, "plural": "rayclusters", "namespace": namespace or own}
        self._scope = {**_GROUP, "plural": "rayjobs", "namespace": namespace or own}
        self._api, self._error = client.CustomObjectsApi(), client.ApiException
        self._unreachable = urllib3.exceptions.HTTPError
        self._attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._passing),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=poll_seconds),
            stop=tenacity.stop_after_delay(patience_seconds),
            reraise=True,
        )

    def _passing(self, error: BaseException) -> bool:
        """Whether it may be better in a moment."""
        if isinstance(error, self._error):
            return bool(error.status in (0, 429) or error.status >= 500)
        return isinstance(error, self._unreachable)

    def _ask(self, call: Callable[[], T], answers: Sequence[int] = ()) -> T | int:
        """The answer, or its status where that is one of `answers`."""
        try:
            return self._attempts(call)
        except self._error as error:
            if error.status in answers:
                return int(error.status)
            raise LaunchError(f"the Kubernetes API answers {error.status}: {_said(error)}") from error
        except self._unreachable as error:
            raise LaunchError(f"the Kubernetes API does not answer: {error}") from error

    def get(self, name: str) -> Resource | None:
        found = self._ask(
            lambda: self._api.get_namespaced_custom_object(**self._scope, name=name, _request_timeout=_REQUEST_SECONDS),
            answers=[404],
        )
        return found if isinstance(found, dict) else None

    def of_template(self, template: str) -> list[Resource]:
        found = self._ask(
            lambda: self._api.list_namespaced_custom_object(
                **self._scope, label_selector=f"{TEMPLATE_LABEL}={template}", _request_timeout=_REQUEST_SECONDS
            )
        )
        assert isinstance(found, dict)
        items: list[Resource] = found["items"]
        return items

    def create(self, rayjob: Resource) -> None:
        """Create it, unless an earlier attempt has."""
        self._ask(
            lambda: self._api.create_namespaced_custom_object(
                **self._scope, body=rayjob, _request_timeout=_REQUEST_SECONDS
            ),
            answers=[409],
        )

    def grow(self, cluster: str, patch: Patch) -> bool:
        """Whether a RayCluster takes the patch. It does not if it has gone, or the launcher has no right to."""
        answer = self._ask(
            lambda: self._api.patch_namespaced_custom_object(
                **self._clusters, name=cluster, body=patch, _content_type=_JSON_PATCH, _request_timeout=_REQUEST_SECONDS
            ),
            answers=[403, 404, 409, 422],
        )
        return isinstance(answer, dict)


def _said(error: Any) -> str:
    """The reason that the API gives, which for a RayJob that is not valid names the field."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(error.body)["message"])
    return str(error.reason)


def latest(launch: Launch, rayjobs: RayJobs) -> Launch:
    """The last attempt at the launch that somebody has made: a pod that was started again goes on with it."""
    for attempt in range(MOST_ATTEMPTS, launch.attempt, -1):
        later = replace(launch, attempt=attempt)
        found = rayjobs.get(later.name)
        if found is not None and belongs(found, later):
            return later
    return launch


def start(launch: Launch, rayjobs: RayJobs, words: Sequence[str]) -> Outcome | None:
    """Have the launch's RayJob in the cluster. An outcome if there is nothing to wait for.

    Two launches that look at the same moment may both start; the retraining itself holds a lock on its recipe.

    Raises:
        ConfigError: there is no such template.
        LaunchError: the API refuses, or another Job's RayJob has its name.
    """
    from pipelines.components import ConfigError

    own = rayjobs.get(launch.name)
    if own is None:
        template = rayjobs.get(launch.template)
        if template is None:
            raise ConfigError(f"{launch.template}: no such RayJob; apply an overlay of k8s/, and KubeRay's CRDs")
        if not template["spec"].get("suspend"):
            raise ConfigError(f"{launch.template}: is no template, its spec.suspend is not true")
        if others := running(rayjobs.of_template(launch.template), launch):
            return overlap(launch, others)
        rayjobs.create(clone(reduced(template, launch), launch, words))
        own = rayjobs.get(launch.name)
    if own is not None and not belongs(own, launch):
        raise LaunchError(f"there is a RayJob {launch.name} that this Job has not created")
    return None
