"""What a launcher decides: names, copies of the template, what counts as running, what an end means. All of it pure.

A launch is named after the batch Job that it runs for. A pod of that Job that is started again therefore finds what
the first one has begun, instead of beginning it twice.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.exit_codes import ExitCode

Resource = dict[str, Any]

#: What KubeRay admits: it appends to the name until Kubernetes' 63 are full.
LONGEST_NAME = 47
TEMPLATE_LABEL, LAUNCH_LABEL, QUEUE_LABEL = "selfgan.io/template", "selfgan.io/launch", "kueue.x-k8s.io/queue-name"
_FAILED_WITH = re.compile(r"entrypoint command failed with exit code (-?\d+)")
#: What a shell leaves as it is, however often one reads it: KubeRay hands an entry point through two.
_PLAIN_WORD = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
_SENTENCES = {
    ExitCode.NOTHING_NEW: "nothing new: the recipe has been trained on this data",
    ExitCode.PROMOTED: "promoted: the new model is the champion",
    ExitCode.HELD: "held: the new model is not good enough to be champion",
    ExitCode.REJECTED: "rejected: the new model is not fit to be compared, the champion stays",
    ExitCode.USER_ERROR: "failed: the retraining was called wrongly",
}


class LaunchError(RuntimeError):
    """The launch cannot go on; its text is the one line to show."""


@dataclass(frozen=True)
class Outcome:
    """How a launch ended: the launcher's own exit code, and the verdict in words."""

    code: int
    text: str


@dataclass(frozen=True)
class Launch:
    """One firing of the CronJob.

    Args:
        template: what is launched; one launch of it runs at a time.
        job: name of the batch Job whose pod this is.
        uid: that Job's; empty outside a cluster.
        queue: of Kueue, which then decides when the launch starts.
        fewest: replicas to start with, if more are to be added later.
        attempt: a launch that its cluster ended gets a second RayJob.
        spent_seconds: how long the attempts before were active.
    """

    template: str
    job: str
    uid: str = ""
    queue: str | None = None
    fewest: int | None = None
    attempt: int = 1
    spent_seconds: int = 0

    @property
    def name(self) -> str:
        """The job's name as KubeRay takes it: a DNS label of at most 47 characters that begins with a letter."""
        behind = f"-{self.attempt}" if self.attempt > 1 else ""
        most = LONGEST_NAME - len(behind)
        name = re.sub(r"[^a-z0-9-]", "-", self.job.lower()).strip("-")
        name = name if name[:1].isalpha() else f"job-{name}"
        if len(name) > most:
            name = f"{name[: most - 9].rstrip('-')}-{hashlib.sha256(self.job.encode()).hexdigest()[:8]}"
        return name + behind

    @property
    def grows(self) -> bool:
        """Whether it starts with its fewest replicas. Kueue sets aside what it sees at first, and hears of no more."""
        return self.fewest is not None and self.queue is None

    @property
    def labels(self) -> dict[str, str]:
        queue = {QUEUE_LABEL: self.queue} if self.queue else {}
        return {TEMPLATE_LABEL: self.template, LAUNCH_LABEL: self.uid or self.name, **queue}


def altered_by_a_shell(words: Iterable[str]) -> list[str]:
    """The words that a shell would read as something else."""
    return [word for word in words if not _PLAIN_WORD.fullmatch(word)]


def clone(template: Resource, launch: Launch, words: Sequence[str]) -> Resource:
    """A RayJob that does what the template says, with `words` behind its entry point.

    It goes when its batch Job goes. With a queue it stays suspended: Kueue starts it. All attempts share the time that
    the template gives.
    """
    metadata, spec = template["metadata"], copy.deepcopy(template["spec"])
    spec.pop("jobId", None)
    if "activeDeadlineSeconds" in spec:
        spec["activeDeadlineSeconds"] = max(1, spec["activeDeadlineSeconds"] - launch.spent_seconds)
    spec["suspend"] = launch.queue is not None
    spec["entrypoint"] = " ".join([spec["entrypoint"].strip(), *words])
    annotations = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if not key.startswith("kubectl.kubernetes.io/")
    }
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": launch.job, "uid": launch.uid}
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {
            "name": launch.name,
            "namespace": metadata["namespace"],
            "labels": {**(metadata.get("labels") or {}), **launch.labels},
            **({"annotations": annotations} if annotations else {}),
            **({"ownerReferences": [owner]} if launch.uid else {}),
        },
        "spec": spec,
    }


def belongs(rayjob: Resource, launch: Launch) -> bool:
    """Whether this launch made that RayJob, and not another Job that once had the same name."""
    labels = rayjob["metadata"].get("labels") or {}
    return bool(labels.get(LAUNCH_LABEL) == launch.labels[LAUNCH_LABEL])


def running(rayjobs: Iterable[Resource], launch: Launch) -> list[str]:
    """Names of the template's other RayJobs that have not ended; a queued one counts."""
    return sorted(
        rayjob["metadata"]["name"]
        for rayjob in rayjobs
        if (rayjob["metadata"].get("labels") or {}).get(TEMPLATE_LABEL) == launch.template
        and rayjob["metadata"]["name"] != launch.name
        and ended(rayjob) is None
    )


def overlap(launch: Launch, names: Sequence[str]) -> Outcome:
    return Outcome(0, f"nothing done: {launch.template} is running already, as {', '.join(names)}")


def ended(rayjob: Resource) -> Outcome | None:
    """What a RayJob's status says; None while it may still go on (a suspended one may)."""
    status = rayjob.get("status") or {}
    message, state = str(status.get("message") or ""), status.get("jobDeploymentStatus")
    if state == "Complete":
        succeeded = status.get("jobStatus") in (None, "", "SUCCEEDED")
        return judged(0 if succeeded else None, message or f"the job ended as {status.get('jobStatus')}")
    if state in ("Failed", "ValidationFailed"):
        return judged(None, message or str(status.get("reason") or "KubeRay gives no reason"))
    return None


def stated_code(message: str) -> int | None:
    """The exit code that Ray's message about a job states; behind its first line are the job's own words."""
    stated = _FAILED_WITH.search(message.partition("\n")[0])
    return int(stated[1]) if stated else None


def judged(code: int | None, message: str) -> Outcome:
    """The outcome of a job with that exit code, or with the one that Ray's message states.

    A verdict is not a failure: a model that is held back is a retraining that worked.
    """
    if code is None:
        stated = stated_code(message)
        code = ExitCode.FAILED if stated is None else stated
    if code in _SENTENCES:
        sentence = _SENTENCES[ExitCode(code)]
        if code == ExitCode.USER_ERROR:
            return Outcome(ExitCode.FAILED, sentence + _last(message))
        return Outcome(0, sentence)
    return Outcome(ExitCode.FAILED, f"failed{f' with exit code {code}' if code != 1 else ''}{_last(message)}")


def _last(message: str) -> str:
    """Why a job failed: the last error that it names, or else the last line of its log. Ray may write behind either."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    why = [line for line in lines if line.startswith("error: ")] or lines
    return f": {why[-1]}" if why else ""
