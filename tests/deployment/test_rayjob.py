"""The CronJob's launcher: what it decides, and what it does with an API that is there, fails, or was asked before."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.config import kube_config

from pipelines.exit_codes import ExitCode
from pipelines.rayjob.__main__ import main
from pipelines.rayjob.launches import LONGEST_NAME, Launch, altered_by_a_shell, clone, ended, judged
from tests.conftest import ROOT, called
from tests.deployment.kubernetes_api import MESSAGE, KubernetesApi, status
from tests.patience import PATIENCE, wait_until

TEMPLATE = "selfgan-retrain"
JOB, UID = "selfgan-retrain-29312345", "4f1c"
WORDS = ["digits", "storage=s3://bucket/runs"]
RUNNING = status("Running")


def template(**spec: Any) -> dict[str, Any]:
    """The RayJob that lies in the cluster, with what the API server and kubectl have added."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": TEMPLATE,
            "namespace": "selfgan",
            "uid": "0",
            "resourceVersion": "1",
            "generation": 3,
            "managedFields": [{}],
            "labels": {"app.kubernetes.io/part-of": "selfgan"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "kept"},
        },
        "spec": {"suspend": True, "entrypoint": "python -m pipelines.retrain\n", "jobId": "old", **spec},
        "status": {"jobDeploymentStatus": "Suspended"},
    }


@contextlib.contextmanager
def cluster(course: list[dict[str, Any] | None] | None = None, *, empty: bool = False) -> Iterator[KubernetesApi]:
    api = KubernetesApi(course)
    if not empty:
        api.stored[TEMPLATE] = template()
    yield api
    api.close()


def asked(folder: Path, *options: str, words: list[str]) -> list[str]:
    pace = ["--poll-seconds=0.05", f"--patience-seconds={PATIENCE}", f"--termination-log={folder / 'termination'}"]
    return [TEMPLATE, *pace, *options, "--", *words]


def command(api: KubernetesApi, folder: Path, *options: str, words: list[str] = WORDS) -> subprocess.Popen[str]:
    """``python -m pipelines.rayjob``, as the CronJob's pod runs it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JOB_NAME": JOB, "JOB_UID": UID, "NAMESPACE": "selfgan"}
    environment["KUBECONFIG"] = str(api.kubeconfig(folder / "kubeconfig"))
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.rayjob", *asked(folder, *options, words=words)],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(api: KubernetesApi, folder: Path, *options: str, words: list[str] = WORDS) -> tuple[int, str, str]:
    """The same in this process."""
    given = {"JOB_NAME": JOB, "JOB_UID": UID, "NAMESPACE": "selfgan"}
    kubeconfig = str(api.kubeconfig(folder / "kubeconfig"))
    with pytest.MonkeyPatch.context() as patch:  # The client looks at KUBECONFIG when it is imported, and never again.
        patch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig)
        return called(main, *asked(folder, *options, words=words), cwd=folder, **given)


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        (0, 0, "nothing new"),
        (10, 0, "promoted"),
        (11, 0, "held"),
        (12, 0, "rejected"),
        (1, 1, "failed: error: no such bucket"),
        (2, 1, "called wrongly: error: no such bucket"),
        (137, 1, "failed with exit code 137: error: no such bucket"),
    ],
)
def test_the_verdict_of_the_retraining_is_passed_on(tmp_path: Path, code: int, exit_code: int, said: str) -> None:
    log = "reading shards\nerror: no such bucket\n"
    end = status("Failed" if code else "Complete", code, log)
    with cluster([status("Initializing"), RUNNING, RUNNING, end]) as api:
        found, out, err = launch(api, tmp_path)
        assert api.created == [JOB]
    assert found == exit_code, err
    last = (out if exit_code == 0 else err).strip().splitlines()[-1]
    assert said in last
    assert (tmp_path / "termination").read_text() == f"{last}\n"
    assert "Traceback" not in err


def test_the_copy_is_what_the_template_says_and_nothing_of_the_server(tmp_path: Path) -> None:
    with cluster([RUNNING, status("Complete", 0)]) as api:
        launch(api, tmp_path)
        made = api.stored[JOB]
    assert made["spec"] == {
        "suspend": False,
        "entrypoint": "python -m pipelines.retrain digits storage=s3://bucket/runs",
    }
    assert made["metadata"]["labels"] == {
        "app.kubernetes.io/part-of": "selfgan",
        "selfgan.io/template": TEMPLATE,
        "selfgan.io/launch": UID,
    }
    assert made["metadata"]["annotations"] == {"note": "kept"}
    assert made["metadata"]["ownerReferences"] == [{"apiVersion": "batch/v1", "kind": "Job", "name": JOB, "uid": UID}]
    assert not {"managedFields", "generation"} & set(made["metadata"])


def test_a_pod_that_is_started_again_finds_the_rayjob_that_it_had_begun(tmp_path: Path) -> None:
    with cluster([RUNNING]) as api:
        first = command(api, tmp_path)
        wait_until(lambda: JOB in api.created, "the RayJob is there", first)
        assert first.stdout is not None
        first.stdout.readline()
        first.send_signal(signal.SIGTERM)
        assert first.wait(PATIENCE) == 143
        api.course = [RUNNING, status("Failed", 10)]
        code, out, _ = launch(api, tmp_path)
        assert api.created == [JOB]
        assert (code, out.splitlines()[-1][:8]) == (0, "promoted")
        # And so does one that comes when all is over.
        assert launch(api, tmp_path)[0] == 0
        assert api.created == [JOB]


def test_nothing_is_done_while_another_retraining_runs(tmp_path: Path) -> None:
    with cluster() as api:
        other = clone(template(), Launch(TEMPLATE, "by-hand", "9"), [])
        api.stored["by-hand"] = other | {"status": RUNNING}
        code, out, _ = launch(api, tmp_path)
        assert (code, api.created) == (0, [])
        assert "running already, as by-hand" in out
        api.stored["by-hand"]["status"] = status("Failed", 11)
        api.course = [status("Complete", 0)]
        assert launch(api, tmp_path)[0] == 0
        assert api.created == [JOB]


def test_a_missing_template_is_the_users_mistake(tmp_path: Path) -> None:
    with cluster(empty=True) as api:
        code, out, err = launch(api, tmp_path)
    assert (code, out) == (2, "")
    assert err.strip().startswith(f"error: {TEMPLATE}: no such RayJob; apply")
    assert err.count("\n") == 1


def test_a_template_that_runs_is_none(tmp_path: Path) -> None:
    with cluster() as api:
        api.stored[TEMPLATE]["spec"]["suspend"] = False
        code, _, err = launch(api, tmp_path)
    assert code == 2
    assert "spec.suspend is not true" in err


def test_an_api_that_fails_for_a_while_is_asked_again(tmp_path: Path) -> None:
    with cluster([RUNNING, status("Failed", 11)]) as api:
        api.failures = [500, 503, 429]
        api.lost_answers = 1
        code, out, err = launch(api, tmp_path)
        assert (code, err) == (0, "")
        assert api.created == [JOB]
        assert api.requests.count("POST /apis/ray.io/v1/namespaces/selfgan/rayjobs") == 2
    assert "held" in out


def test_an_api_that_goes_on_failing_is_one_line(tmp_path: Path) -> None:
    with cluster() as api:
        api.failures = [500] * 1000
        code, _, err = launch(api, tmp_path, "--patience-seconds=0.3")
        assert (code, err.strip()) == (1, "error: the Kubernetes API answers 500: etcdserver: request timed out")
        api.failures = [403]
        code, _, err = launch(api, tmp_path)
        assert (code, err.count("\n")) == (1, 1)
        assert "answers 403" in err
    code, _, err = launch(api, tmp_path, "--patience-seconds=0.3")
    assert (code, err.count("\n")) == (1, 1)
    assert "does not answer" in err


def test_a_rayjob_that_is_deleted_while_it_is_waited_for_has_failed(tmp_path: Path) -> None:
    with cluster([RUNNING, RUNNING, None]) as api:
        code, _, err = launch(api, tmp_path)
    assert (code, err.strip()) == (1, f"failed: RayJob {JOB} was deleted")


def test_waiting_ends(tmp_path: Path) -> None:
    with cluster([RUNNING]) as api:
        code, _, err = launch(api, tmp_path, "--timeout-seconds=0.3")
    assert code == 1
    assert "no end after 0.3 s; the job goes on" in err


def test_a_rayjob_of_the_same_name_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    with cluster() as api:
        api.stored[JOB] = clone(template(), Launch(TEMPLATE, JOB, "another"), [])
        code, _, err = launch(api, tmp_path)
    assert code == 1
    assert "that this Job has not created" in err


def test_with_a_queue_kueue_starts_the_copy(tmp_path: Path) -> None:
    with cluster() as api:
        process = command(api, tmp_path, "--queue=night")
        wait_until(lambda: JOB in api.created, "the RayJob is there", process)
        made = api.stored[JOB]
        assert made["spec"]["suspend"] is True
        assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "night"
        made["status"] = status("Suspended")
        looks = len(api.requests)
        wait_until(lambda: len(api.requests) > looks + 3, "it looks again", process)
        api.course = [RUNNING, status("Failed", 12)]
        made["spec"]["suspend"] = False
        assert process.wait(PATIENCE) == 0
        process.communicate()


def test_words_that_a_shell_would_alter_are_refused(tmp_path: Path) -> None:
    with cluster() as api:
        code, _, err = launch(api, tmp_path, words=["digits", "terms=[l1]"])
        assert (code, api.requests) == (2, [])
    assert "'terms=[l1]': would be altered" in err
    altered = ["a;b", "$X", "a b", "a*", "~", "`x`", "a&", "", "'a'", "é"]
    assert altered_by_a_shell(altered) == altered
    plain = ["python", "-m", "pipelines.retrain", "storage=s3://b/r", "tracking.uri=http://m:5"]
    assert altered_by_a_shell(plain) == []


def test_help_needs_no_cluster() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pipelines.rayjob", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "--submit ADDRESS" in done.stdout
    assert not any(name in done.stderr for name in ("kubernetes.client", "ray.job_submission", "pydantic"))


def test_names_are_those_of_the_jobs_as_far_as_kuberay_takes_them() -> None:
    assert Launch(TEMPLATE, JOB).name == JOB
    long = [Launch(TEMPLATE, "nightly-retraining-of-bedrooms-on-the-large-pool-" + tail).name for tail in "ab"]
    assert all(len(name) <= LONGEST_NAME for name in long)
    assert long[0] != long[1]
    assert long[0] == Launch(TEMPLATE, "nightly-retraining-of-bedrooms-on-the-large-pool-a").name
    assert Launch(TEMPLATE, "2nd.Try").name == "job-2nd-try"


def test_what_a_log_says_is_not_taken_for_the_exit_code() -> None:
    forged = "Job entrypoint command failed with exit code 10"
    assert judged(None, MESSAGE.format(1, f"{forged}\nerror: x")).code == ExitCode.FAILED
    assert judged(None, f"Unexpected error\n{forged}").code == ExitCode.FAILED
    assert judged(None, "Job entrypoint command failed with exit code 11. No logs available.").text.startswith("held")


def test_what_ray_writes_behind_an_error_is_not_taken_for_it() -> None:
    late = "2026-01-01 02:17:00,123\tINFO job_manager.py:531 -- Runtime env is setting up."
    assert judged(None, MESSAGE.format(1, f"error: no such bucket\n{late}")).text == "failed: error: no such bucket"
    assert judged(None, MESSAGE.format(137, "Killed")).text == "failed with exit code 137: Killed"


@pytest.mark.parametrize("state", ["", "Initializing", "Running", "Suspending", "Suspended", "Retrying", "Waiting"])
def test_a_rayjob_that_may_go_on_has_not_ended(state: str) -> None:
    assert ended({"metadata": {}, "status": {"jobDeploymentStatus": state, "jobStatus": "FAILED"}}) is None


def test_a_rayjob_that_kuberay_ends_has_failed() -> None:
    late = {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "", "jobStatus": "RUNNING"}
    outcome = ended({"metadata": {}, "status": late})
    assert outcome is not None
    assert (outcome.code, outcome.text) == (1, "failed: DeadlineExceeded")
    stopped = ended({"metadata": {}, "status": {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}})
    assert stopped is not None
    assert stopped.code == ExitCode.FAILED


def submit(
    address: str, folder: Path, job: str, uid: str, *words: str, patience_seconds: float = PATIENCE
) -> tuple[int, str, str]:
    """``python -m pipelines.rayjob --submit``, in this process."""
    asked = [TEMPLATE, f"--submit={address}", "--poll-seconds=0.2", f"--patience-seconds={patience_seconds}"]
    asked += [f"--termination-log={folder / 'termination'}", "--", *words]
    return called(main, *asked, cwd=folder, JOB_NAME=job, JOB_UID=uid)


def exits(code: int, seconds: float = 0) -> list[str]:
    return [sys.executable, "-c", f"import sys, time; time.sleep({seconds}); print('error: why'); sys.exit({code})"]


def test_a_cluster_that_is_there_gives_the_verdict_too(ray_cluster: tuple[str, str], tmp_path: Path) -> None:
    from ray.job_submission import JobSubmissionClient

    _, dashboard = ray_cluster
    code, out, err = submit(dashboard, tmp_path, "night-1", "1", *exits(10))
    assert (code, err) == (0, "")
    assert "promoted" in out
    # Ray's own words, by which KubeRay's users have to go.
    info = JobSubmissionClient(dashboard).get_job_info("night-1")
    assert judged(None, info.message) == judged(10, "")
    # Asked again, it does not run again; asked by another Job, it is not that one's.
    assert submit(dashboard, tmp_path, "night-1", "1", *exits(1))[0] == 0
    code, _, err = submit(dashboard, tmp_path, "night-1", "2", *exits(0))
    assert (code, err.count("\n")) == (1, 1)
    code, _, err = submit(dashboard, tmp_path, "night-2", "3", *exits(1))
    assert (code, err.strip()) == (1, "failed: error: why")


def test_one_job_at_a_time_is_submitted(ray_cluster: tuple[str, str], tmp_path: Path) -> None:
    from ray.job_submission import JobSubmissionClient

    _, dashboard = ray_cluster
    client = JobSubmissionClient(dashboard)
    labels = Launch(TEMPLATE, "long", "5").labels
    client.submit_job(entrypoint=f"sleep {PATIENCE:.0f}", submission_id="long", metadata=labels)
    code, out, _ = submit(dashboard, tmp_path, "night-3", "4", *exits(0))
    assert code == 0
    assert "running already, as long" in out
    client.stop_job("long")
    code, _, err = submit(dashboard, tmp_path, "long", "5", *exits(0))
    assert (code, err.strip()) == (1, "failed: the job was stopped")


def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    code, _, err = submit("http://127.0.0.1:9", tmp_path, "night-4", "6", *exits(0), patience_seconds=1)
    assert (code, err.count("\n")) == (1, 1)
    assert "the Ray cluster does not take the job" in err


def test_a_token_that_is_missing_or_wrong_is_one_line(tmp_path: Path) -> None:
    with cluster() as api:
        for status_code, said in ((401, "Authentication required"), (403, "Authentication failed")):
            api.failures = [status_code]
            code, _, err = submit(api.address, tmp_path, "night-5", "7", *exits(0))
            assert (code, err.count("\n")) == (1, 1)
            assert said in err
