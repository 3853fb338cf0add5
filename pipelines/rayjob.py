"""What the CronJob's pod runs: starts a retraining on a cluster, waits for it, and passes its verdict on.

It clones a suspended RayJob, or with `--submit` hands the command to a Ray cluster that is there. Exit codes: 0 for a
retraining that came to a verdict, whatever that is, and when one is running already; 1 for one that failed; 2 for a
mistake in the call or in what is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pipelines.launches import (
    TEMPLATE_LABEL,
    Launch,
    LaunchError,
    Outcome,
    Resource,
    altered_by_a_shell,
    belongs,
    clone,
    ended,
    overlap,
    running,
)
from pipelines.verdicts import Verdict

T = TypeVar("T")
TERMINATED = 143
Look = Callable[[], Outcome | None]
_KIND = {"group": "ray.io", "version": "v1", "plural": "rayjobs"}
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_REQUEST_SECONDS = 30

_USAGE = """\
python -m pipelines.rayjob TEMPLATE [OPTION ...] -- WORD ...
       python -m pipelines.rayjob NAME --submit ADDRESS [OPTION ...] -- COMMAND ..."""
_EPILOG = """\
examples:
  python -m pipelines.rayjob selfgan-retrain -- digits storage=s3://bucket/runs
  python -m pipelines.rayjob selfgan-retrain --submit http://ray-head-svc:8265 -- python -m pipelines.retrain digits
"""


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
        self._scope = {**_KIND, "namespace": namespace or own}
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


def _said(error: Any) -> str:
    """The reason that the API gives, which for a RayJob that is not valid names the field."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(error.body)["message"])
    return str(error.reason)


def start(launch: Launch, rayjobs: RayJobs, words: Sequence[str]) -> Outcome | None:
    """Have the launch's RayJob in the cluster. An outcome if there is nothing to wait for.

    Two launches that look at the same moment may both start; the retraining itself holds a lock on its recipe.

    Raises:
        ConfigError: there is no such template.
        LaunchError: the API refuses, or another Job's RayJob has its name.
    """
    from service.components import ConfigError

    own = rayjobs.get(launch.name)
    if own is None:
        template = rayjobs.get(launch.template)
        if template is None:
            raise ConfigError(f"{launch.template}: no such RayJob; apply an overlay of k8s/, and KubeRay's CRDs")
        if not template["spec"].get("suspend"):
            raise ConfigError(f"{launch.template}: is no template, its spec.suspend is not true")
        if others := running(rayjobs.of_template(launch.template), launch):
            return overlap(launch, others)
        rayjobs.create(clone(template, launch, words))
        own = rayjobs.get(launch.name)
    if own is not None and not belongs(own, launch):
        raise LaunchError(f"there is a RayJob {launch.name} that this Job has not created")
    return None


def wait(look: Look, poll_seconds: float, timeout_seconds: float) -> Outcome:
    """Look until there is an outcome."""
    import tenacity

    late = Outcome(
        Verdict.FAILED, f"failed: no end after {timeout_seconds:g} s; the job goes on, and is found when run again"
    )
    outcome = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda outcome: outcome is None),
        wait=tenacity.wait_fixed(poll_seconds),
        stop=tenacity.stop_after_delay(timeout_seconds),
        retry_error_callback=lambda _: late,
    )(look)
    assert outcome is not None
    return outcome


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        usage=_USAGE, description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("template", help="suspended RayJob to clone; with --submit, a name for jobs of this kind")
    parser.add_argument("--submit", metavar="ADDRESS", help="dashboard of a running Ray cluster to submit to")
    parser.add_argument("--queue", help="Kueue's LocalQueue, which then starts the RayJob")
    parser.add_argument("--job", default=os.environ.get("JOB_NAME"), help="batch Job of this pod [$JOB_NAME]")
    parser.add_argument("--job-uid", default=os.environ.get("JOB_UID", ""), help="its uid [$JOB_UID]")
    parser.add_argument("--namespace", default=os.environ.get("NAMESPACE"), help="[$NAMESPACE, or the pod's]")
    parser.add_argument("--timeout-seconds", type=float, default=86400, help="longest wait [%(default)s]")
    parser.add_argument("--poll-seconds", type=float, default=10, help="between two looks [%(default)s]")
    parser.add_argument("--patience-seconds", type=float, default=300, help="for an API that fails [%(default)s]")
    parser.add_argument("--termination-log", type=Path, default=Path("/dev/termination-log"), help="[%(default)s]")
    return parser


def _launched(arguments: argparse.Namespace, words: Sequence[str]) -> Outcome:
    launch = Launch(arguments.template, arguments.job, arguments.job_uid, arguments.queue)
    begin = _submitted if arguments.submit else _cloned
    done, look = begin(launch, arguments, words)
    if done is None:
        print(f"waiting for {launch.name}", flush=True)
        done = wait(look, arguments.poll_seconds, arguments.timeout_seconds)
    return done


def _cloned(launch: Launch, arguments: argparse.Namespace, words: Sequence[str]) -> tuple[Outcome | None, Look]:
    rayjobs = RayJobs(arguments.namespace, arguments.poll_seconds, arguments.patience_seconds)

    def look() -> Outcome | None:
        rayjob = rayjobs.get(launch.name)
        if rayjob is None:
            return Outcome(Verdict.FAILED, f"failed: RayJob {launch.name} was deleted")
        return ended(rayjob)

    return start(launch, rayjobs, words), look


def _submitted(launch: Launch, arguments: argparse.Namespace, words: Sequence[str]) -> tuple[Outcome | None, Look]:
    from pipelines import ray_submission

    jobs = ray_submission.Submissions(arguments.submit, arguments.poll_seconds, arguments.patience_seconds)
    return ray_submission.submit(launch, jobs, words), lambda: ray_submission.ended(jobs.find(launch.name))


def _terminated(*_: object) -> NoReturn:
    """As process 1 of a container this would not hear of SIGTERM otherwise."""
    sys.exit(TERMINATED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    at = given.index("--") if "--" in given else len(given)
    parser = _parser()
    parsed, words = parser.parse_args(given[:at]), given[at + 1 :]
    if not parsed.job:
        parser.error("--job: names the launch; in a pod the downward API gives it as $JOB_NAME")
    if parsed.submit and not words:
        parser.error("--submit: needs a command, behind --")
    if not parsed.submit and (altered := altered_by_a_shell(words)):
        parser.error(f"{altered[0]!r}: would be altered by the shells that KubeRay hands it to; put it in a recipe")
    signal.signal(signal.SIGTERM, _terminated)
    from service.components import ConfigError

    try:
        outcome = _launched(parsed, words)
    except ConfigError as error:
        outcome = Outcome(Verdict.USER_ERROR, f"error: {error}")
    except LaunchError as error:
        outcome = Outcome(Verdict.FAILED, f"error: {error}")
    print(outcome.text, file=sys.stdout if outcome.code == 0 else sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        parsed.termination_log.write_text(outcome.text + "\n")
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
