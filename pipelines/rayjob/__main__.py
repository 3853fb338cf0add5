"""What the CronJob's pod runs: starts a retraining on a cluster, waits for it, and passes its verdict on.

It clones a suspended RayJob, and once more if the cluster ended the first copy, and not the retraining itself. With
`--submit` it hands the command to a Ray cluster that is there. Exit codes: 0 for a retraining that came to a verdict,
whatever that is, and when one is running already; 1 for one that failed; 2 for a mistake in the call or in what is
installed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from pipelines.exit_codes import ExitCode, exit_with
from pipelines.rayjob import attempts
from pipelines.rayjob.launches import Launch, LaunchError, Outcome, altered_by_a_shell, ended

Look = Callable[[], Outcome | None]

_USAGE = """\
python -m pipelines.rayjob TEMPLATE [OPTION ...] -- WORD ...
       python -m pipelines.rayjob NAME --submit ADDRESS [OPTION ...] -- COMMAND ..."""
_EPILOG = """\
examples:
  python -m pipelines.rayjob selfgan-retrain -- digits storage=s3://bucket/runs
  python -m pipelines.rayjob selfgan-retrain --submit http://ray-head-svc:8265 -- python -m pipelines.retrain digits
"""


def wait(look: Look, poll_seconds: float, timeout_seconds: float, since: float) -> Outcome:
    """Look until there is an outcome, or the time is over that began at `since` of the monotonic clock."""
    import tenacity

    late = Outcome(
        ExitCode.FAILED, f"failed: no end after {timeout_seconds:g} s; the job goes on, and is found when run again"
    )
    outcome = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda outcome: outcome is None),
        wait=tenacity.wait_fixed(poll_seconds),
        stop=tenacity.stop_after_delay(since + timeout_seconds - time.monotonic()),
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
    parser.add_argument(
        "--fewest",
        type=int,
        metavar="REPLICAS",
        help="start with workers for so many, add the rest later [not by Kueue]",
    )
    parser.add_argument("--job", default=os.environ.get("JOB_NAME"), help="batch Job of this pod [$JOB_NAME]")
    parser.add_argument("--job-uid", default=os.environ.get("JOB_UID", ""), help="its uid [$JOB_UID]")
    parser.add_argument("--namespace", default=os.environ.get("NAMESPACE"), help="[$NAMESPACE, or the pod's]")
    parser.add_argument("--timeout-seconds", type=float, default=86400, help="longest wait [%(default)s]")
    parser.add_argument("--poll-seconds", type=float, default=10, help="between two looks [%(default)s]")
    parser.add_argument("--patience-seconds", type=float, default=300, help="for an API that fails [%(default)s]")
    parser.add_argument("--termination-log", type=Path, default=Path("/dev/termination-log"), help="[%(default)s]")
    return parser


def _launched(arguments: argparse.Namespace, words: Sequence[str]) -> Outcome:
    launch = Launch(arguments.template, arguments.job, arguments.job_uid, arguments.queue, arguments.fewest)
    return (_submitted if arguments.submit else _cloned)(launch, arguments, words)


def _cloned(launch: Launch, arguments: argparse.Namespace, words: Sequence[str]) -> Outcome:
    from pipelines.rayjob.rayjobs import RayJobs, latest, start
    from pipelines.rayjob.workers import growth

    rayjobs = RayJobs(arguments.namespace, arguments.poll_seconds, arguments.patience_seconds)
    since, attempt = time.monotonic(), latest(launch, rayjobs)
    grown: set[str] = set()

    def look() -> Outcome | None:
        rayjob = rayjobs.get(attempt.name)
        if rayjob is None:
            return Outcome(ExitCode.FAILED, f"failed: RayJob {attempt.name} was deleted")
        if attempt.name not in grown and (more := growth(rayjob, attempt)):
            grown.add(attempt.name)
            taken = rayjobs.grow(*more)
            said = "asks for the rest of its workers" if taken else "takes no more workers than it has"
            print(f"{attempt.name} runs, and its cluster {said}", flush=True)
        return ended(rayjob)

    while True:
        if nothing_to_do := start(attempt, rayjobs, words):
            return nothing_to_do
        outcome = _waited(attempt, look, arguments, since)
        rayjob = rayjobs.get(attempt.name)
        following = attempts.following(attempt, rayjob) if rayjob else None
        if rayjob is None or following is None:
            return outcome
        print(f"the cluster ended {attempt.name} ({attempts.lost(rayjob)}); {following.name} follows", flush=True)
        time.sleep(attempts.leaving_seconds(rayjob))
        attempt = following


def _submitted(launch: Launch, arguments: argparse.Namespace, words: Sequence[str]) -> Outcome:
    from pipelines.rayjob import ray_submission

    jobs = ray_submission.Submissions(arguments.submit, arguments.poll_seconds, arguments.patience_seconds)
    if nothing_to_do := ray_submission.submit(launch, jobs, words):
        return nothing_to_do
    return _waited(launch, lambda: ray_submission.ended(jobs.find(launch.name)), arguments, time.monotonic())


def _waited(launch: Launch, look: Look, arguments: argparse.Namespace, since: float) -> Outcome:
    print(f"waiting for {launch.name}", flush=True)
    return wait(look, arguments.poll_seconds, arguments.timeout_seconds, since)


def _terminated(*_: object) -> NoReturn:
    """As process 1 of a container this would not hear of SIGTERM otherwise."""
    sys.exit(ExitCode.TERMINATED)


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
    if parsed.submit and parsed.fewest is not None:
        parser.error("--fewest: a cluster that is there has the workers that it has; leave it out with --submit")
    if not parsed.submit and (altered := altered_by_a_shell(words)):
        parser.error(f"{altered[0]!r}: would be altered by the shells that KubeRay hands it to; put it in a recipe")
    signal.signal(signal.SIGTERM, _terminated)
    from pipelines.components import ConfigError

    try:
        outcome = _launched(parsed, words)
    except ConfigError as error:
        outcome = Outcome(ExitCode.USER_ERROR, f"error: {error}")
    except LaunchError as error:
        outcome = Outcome(ExitCode.FAILED, f"error: {error}")
    print(outcome.text, file=sys.stdout if outcome.code == 0 else sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        parsed.termination_log.write_text(outcome.text + "\n")
    return outcome.code


if __name__ == "__main__":
    exit_with(main)
