"""A launch on a Ray cluster that is there: submit the command as a job, wait for it, read its exit code.

``ray job submit`` would do, but for its exit code: that of a job that failed is 1 whatever the job's was, and
``ray job logs --follow`` succeeds after a job that failed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tenacity
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from pipelines.exit_codes import ExitCode
from pipelines.rayjob.launches import LAUNCH_LABEL, TEMPLATE_LABEL, Launch, LaunchError, Outcome, judged, overlap

T = TypeVar("T")
#: How Ray's client says what the server answered.
_BROKEN, _UNKNOWN = re.compile(r"status code (5\d\d|429)\b"), re.compile(r"status code 404\b")
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class Submissions:
    """The jobs of a Ray cluster, over a dashboard that may not answer for a while."""

    def __init__(self, address: str, poll_seconds: float, patience_seconds: float) -> None:
        self._attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_passing),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=poll_seconds),
            stop=tenacity.stop_after_delay(patience_seconds),
            reraise=True,
        )
        self._client: Any = self._ask(lambda: JobSubmissionClient(address))

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return self._attempts(call)
        except (OSError, RuntimeError, RayError) as error:  # The last for a token that is missing or wrong.
            raise LaunchError(f"the Ray cluster does not take the job: {str(error).strip().splitlines()[0]}") from error

    def find(self, name: str) -> Any | None:
        def call() -> Any | None:
            try:
                return self._client.get_job_info(name)
            except RuntimeError as error:
                if _UNKNOWN.search(str(error)):
                    return None
                raise

        return self._ask(call)

    def begin(self, launch: Launch, command: Sequence[str]) -> Outcome | None:
        """Submit the command, unless another launch of the same name is running: then say so."""
        others = [
            job.submission_id
            for job in self._ask(self._client.list_jobs)
            if (job.metadata or {}).get(TEMPLATE_LABEL) == launch.template and str(job.status.value) not in _ENDED
        ]
        if others:
            return overlap(launch, others)
        try:
            self._ask(
                lambda: self._client.submit_job(
                    entrypoint=shlex.join(command), submission_id=launch.name, metadata=launch.labels
                )
            )
        except LaunchError:
            if self.find(launch.name) is None:  # Else a first attempt has arrived though its answer was lost.
                raise
        return None


def _passing(error: BaseException) -> bool:
    """Whether it may be better in a moment."""
    return isinstance(error, OSError) or (isinstance(error, RuntimeError) and bool(_BROKEN.search(str(error))))


def ended(job: Any | None) -> Outcome | None:
    """What a job's record says; None while it runs. A record that has gone went with its cluster."""
    if job is None:
        return Outcome(
            ExitCode.FAILED, "failed: the cluster does not know the job any more; it was deleted, or the head restarted"
        )
    if job.status == JobStatus.STOPPED:
        return Outcome(ExitCode.FAILED, "failed: the job was stopped")
    if job.status in (JobStatus.SUCCEEDED, JobStatus.FAILED):
        return judged(job.driver_exit_code if job.status == JobStatus.FAILED else 0, job.message or "")
    return None


def submit(launch: Launch, jobs: Submissions, command: Sequence[str]) -> Outcome | None:
    """Have the launch's job on the cluster. An outcome if there is nothing to wait for.

    Raises:
        LaunchError: the cluster refuses it, or another Job's launch has its name.
    """
    found = jobs.find(launch.name)
    if found is None:
        return jobs.begin(launch, command)
    if (found.metadata or {}).get(LAUNCH_LABEL) != launch.labels[LAUNCH_LABEL]:
        raise LaunchError(f"the cluster has a job {launch.name} that this one has not submitted")
    return None
