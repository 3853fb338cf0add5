"""From pictures in a bucket to a champion that serves images, night after night.

Ray with a token, MLflow with passwords, and S3 with a role for each, which does what infra/terraform says and no more.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
import requests
from mlflow import MlflowClient
from PIL import Image
from sklearn.datasets import load_digits

from service.artifacts import registry
from tests.conftest import ROOT, free_port, started_cluster
from tests.data.s3_servers import BUCKET
from tests.deployment import roles
from tests.deployment.roles import Store
from tests.mlflow_server import TRAININGS, mlflow_server, serving
from tests.patience import PATIENCE, wait_until

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-the-tests-" + "0" * 43}
RECIPE = [
    "digits", "steps=12", "network.generator_channels=4", "network.critic_channels=4", "logging.every=4",
    "checkpoints.every=6", "checkpoints.score_images=32", "replicas=2", "cluster.cpus_per_replica=1",
    "evaluation.samples=40", "evaluation.features.name=classifier", "evaluation.features.steps=10",
    f"evaluation.cache=s3://{BUCKET}/evaluations", f"storage=s3://{BUCKET}/runs",
    f"data.shards=s3://{BUCKET}/shards/digits", "promotion.least_recall=0", "promotion.least_coverage=0",
    "promotion.least_class_coverage=0", "retraining.patience_seconds=5",
]  # fmt: skip


class Service(NamedTuple):
    """What stands: addresses, and what a user has in his environment."""

    dashboard: str
    mlflow: str
    environment: dict[str, str]
    store: Store

    def run(self, *command: str, **changed: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env={**self.environment, **changed},
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def retraining(self, night: str, *words: str) -> list[str]:
        """The command of the CronJob in the local overlay, with words in the place of the recipe's own."""
        changed = {word.partition("=")[0] for word in words}
        recipe = [word for word in RECIPE if word.partition("=")[0] not in changed]
        launcher = ["-m", "pipelines.rayjob", "selfgan-retrain", f"--job={night}", f"--submit={self.dashboard}"]
        command = [sys.executable, "-m", "pipelines.retrain", *recipe, f"tracking.uri={self.mlflow}", *words]
        return [*launcher, "--", *command]

    def retrain(self, night: str, *words: str) -> tuple[int, str]:
        return self.run(*self.retraining(night, *words))

    def ingest(self, pictures: range, *words: str) -> None:
        """New pictures arrive, and what the CronJob that ingests does then."""
        found, client = load_digits(), self.store.client()
        for number in pictures:
            content, key = BytesIO(), f"sources/digits/{found.target[number]}/{number}.png"
            Image.fromarray((found.images[number] * 15).astype(np.uint8)).save(content, "png")
            client.put_object(Bucket=BUCKET, Key=key, Body=content.getvalue())
        command = ["-m", "pipelines", "ingest", *words, "digits", "data.source=folder"]
        code, said = self.run(
            *command, f"data.source.uri=s3://{BUCKET}/sources/digits", f"data.shards=s3://{BUCKET}/shards/digits",
            **self.store.environment("ingest"),
        )  # fmt: skip
        assert code == 0, said

    @property
    def versions(self) -> int:
        return len(MlflowClient(self.mlflow).search_model_versions("name = 'selfgan-digits'"))

    def stands_for(self, alias: str) -> str | None:
        return registry.pointed("selfgan-digits", alias, self.mlflow)


pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    here = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"HOME": str(folder)}
    with roles.store(BUCKET) as store, pytest.MonkeyPatch.context() as patch:
        for name, value in TRAININGS.items():
            patch.setenv(name, value)
        given = {**here, **store.environment("training"), **TRAININGS, **TOKEN}
        artifacts, server = f"s3://{BUCKET}/mlflow", {**here, **store.environment("mlflow")}
        with mlflow_server(folder, server, artifacts) as mlflow, started_cluster(given, cpus=4) as (_, dashboard):
            found = Service(dashboard, mlflow, given, store)
            found.ingest(range(80))
            yield found


def test_a_submission_ends_with_a_champion_that_makes_images(service: Service, tmp_path: Path) -> None:
    code, said = service.retrain("night-1")
    assert code == 0, said
    assert "promoted" in said
    assert service.environment["AWS_SECRET_ACCESS_KEY"] not in said
    asked = ["service/generate.py", "--model", "models:/selfgan-digits@champion", "--tracking", service.mlflow]
    asked += ["--cache", str(tmp_path / "cache"), "--n", "6", "--seed", "7"]
    code, said = service.run(*asked, "--out", str(tmp_path / "grid.png"))
    assert code == 0, said
    assert Image.open(tmp_path / "grid.png").size[0] > 100
    # The server's passwords hold: nobody else sees the model, and what was fetched is there without it.
    code, said = service.run(*asked, "--out", str(tmp_path / "no.png"), "--cache", str(tmp_path / "other"),
                             MLFLOW_TRACKING_PASSWORD="wrong")  # fmt: skip
    assert code == 1 and "error:" in said and "Traceback" not in said, said


def test_the_same_data_are_nothing_new(service: Service) -> None:
    code, said = service.retrain("night-2")
    assert code == 0 and "nothing new" in said.lower(), said


def test_ray_job_submit_passes_the_verdict_on(service: Service) -> None:
    command = [sys.executable, "-m", "pipelines.retrain", *RECIPE, f"tracking.uri={service.mlflow}", "seed=1"]
    ray = str(Path(sys.executable).with_name("ray"))
    done = subprocess.run(
        [ray, "job", "submit", "--address", service.dashboard, "--working-dir", str(ROOT), "--", *command],
        env=service.environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert "promoted: better" in said or "held: not clearly better" in said, said
    assert "failed" in said.lower() and done.returncode != 0  # A verdict is an exit code, which Ray calls a failure.


def test_new_pictures_are_trained_on_and_a_worse_model_does_not_become_champion(service: Service) -> None:
    champion, before = service.stands_for("champion"), service.versions
    service.ingest(range(80, 100), "--append")
    code, said = service.retrain("night-3", "promotion.errors=1000")
    assert code == 0 and "held" in said, said
    code, said = service.retrain("night-4", "steps=6", "promotion.least_coverage=1")
    assert code == 0 and "rejected" in said, said
    assert service.stands_for("champion") == champion and service.versions == before + 2
    assert service.stands_for("challenger") == str(before + 1)
    tags = registry.tags_of("selfgan-digits", str(before + 2), service.mlflow)
    assert tags["promotion.verdict"] == "rejected" and tags["promotion.against"] == champion


def test_a_night_that_is_killed_is_gone_on_with_the_next_one(service: Service) -> None:
    before, words = service.versions, ["steps=150", "checkpoints.every=15", "promotion.errors=1000"]
    service.ingest(range(100, 120), "--append")
    launcher = subprocess.Popen(
        [sys.executable, *service.retraining("night-5", *words)], cwd=ROOT, env=service.environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    client, known = service.store.client(), set[str]()

    def checkpoints() -> set[str]:
        found = client.list_objects_v2(Bucket=BUCKET, Prefix="runs/retrain-digits-").get("Contents", [])
        return {one["Key"] for one in found if one["Key"].endswith("/state.json")} - known

    known = checkpoints()
    wait_until(checkpoints, "the run has a checkpoint", launcher)
    for process in psutil.process_iter(["cmdline"]):
        called = process.info["cmdline"] or []
        if (
            "pipelines.retrain" in called
            and "pipelines.rayjob" not in called
            and f"tracking.uri={service.mlflow}" in called
        ):
            process.kill()
    out, _ = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 1 and "failed with exit code" in out, out
    assert service.versions == before
    run = next(iter(checkpoints())).split("/")[1]
    code, said = service.retrain("night-6", *words)
    assert code == 0 and "held" in said, said
    assert service.versions == before + 1
    number = str(before + 1)
    assert registry.tags_of("selfgan-digits", number, service.mlflow)["step"] == "150"
    mlflow = MlflowClient(service.mlflow)
    runs = mlflow.search_runs(
        [mlflow.get_experiment_by_name("selfgan").experiment_id], f"tags.mlflow.runName = '{run}'"
    )
    assert [one.info.run_id for one in runs] == [registry.run_of("selfgan-digits", number, service.mlflow)]


def test_without_the_token_nothing_is_submitted(service: Service) -> None:
    launcher = ["-m", "pipelines.rayjob", "night", "--job=3", f"--submit={service.dashboard}", "--", "true"]
    code, said = service.run(*launcher, RAY_AUTH_TOKEN="b" * 64)
    assert code != 0 and "Traceback" not in said, said


def test_mlflow_serves_images(service: Service, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/selfgan-digits@champion",
               "--env-manager", "local", "--port", str(port)]  # fmt: skip
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow starts uvicorn by its name.
    given = {**service.environment, "MLFLOW_TRACKING_URI": service.mlflow, "PATH": programs}
    given["MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"] = "false"  # As docs/runbook.md says.
    with serving(command, f"http://127.0.0.1:{port}/ping", tmp_path, given):
        asked = {"dataframe_split": {"columns": ["n", "seed"], "data": [[3, 7]]}}
        answer = requests.post(f"http://127.0.0.1:{port}/invocations", json=asked, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    images = json.loads(answer.text)["predictions"]
    assert (len(images), len(images[0]), len(images[0][0]), len(images[0][0][0])) == (3, 16, 16, 1)
