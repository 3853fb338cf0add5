"""What the CronJobs that ingest and back up do, by the very words of the manifests, the README and the runbook."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipelines.__main__ import main as pipelines_main
from pipelines.data.ingest import ingest
from pipelines.data.shards import read_manifest
from pipelines.data.sources.digits import Digits
from pipelines.loading.blocks import Blocks
from pipelines.storage.location import Location
from pipelines.storage.upload import main as upload_main
from service.configuration.recipe import load
from tests.conftest import ROOT, called
from tests.deployment import postgres, roles
from tests.deployment.kubernetes_objects import Manifest, Pod, find, pods, resolved, variables, words_of
from tests.deployment.roles import PERSON, Store

INGEST, BACKUP, RETRAIN = "CronJob/selfgan-ingest", "CronJob/selfgan-backup", "CronJob/selfgan-retrain"
MLFLOW = "Deployment/mlflow"
JOB = "selfgan-backup-29312345"


def _pod(manifests: list[Manifest], name: str) -> Pod:
    (pod,) = pods([find(manifests, name)])
    return pod


def _words(manifests: list[Manifest], **replaced: str) -> list[str]:
    """What `python -m pipelines` is called with by the CronJob that ingests."""
    python, module, package, *words = words_of(_pod(manifests, INGEST), manifests)
    assert [python, module, package] == ["python", "-m", "pipelines"]
    return [word.replace("/storage", replaced.get("storage", "/storage")) for word in words]


def _first(manifests: list[Manifest]) -> list[Manifest]:
    """The manifests, the CronJob as the README has it changed for the first ingest."""
    (change,) = re.findall(r"\| sed '([^']*)' \| kubectl", (ROOT / "k8s" / "README.md").read_text())
    job = yaml.dump(find(manifests, INGEST))
    done = subprocess.run(["sed", change], input=job, capture_output=True, text=True, check=True)
    return [yaml.safe_load(done.stdout), *(one for one in manifests if one["kind"] == "ConfigMap")]


def _png(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    file = Path(f"{seed}.png")
    Image.fromarray(noise).save(file)
    return file.read_bytes()


@pytest.fixture
def store() -> Iterator[Store]:
    """The bucket `selfgan`, and the keys of those who may do something with it."""
    with roles.store("selfgan") as found:
        yield found


@pytest.mark.parametrize("overlay", ["gpu", "tpu", "local"])
def test_the_ingest_makes_what_the_retraining_reads(overlays: dict[str, list[Manifest]], overlay: str) -> None:
    manifests = overlays[overlay]
    (container,) = _pod(manifests, RETRAIN).containers
    words = [resolved(word, variables(container, manifests)) for word in container["args"]]
    command, append, recipe, *overrides = _words(manifests)
    assert (command, append) == ("ingest", "--append")
    assert recipe in words
    assert next(word for word in words if word.startswith("data.shards=")) in overrides
    run = load(recipe, overrides)
    assert run.data.source.model_dump()["uri"] == variables(container, manifests)["SOURCE"]
    assert find(manifests, INGEST)["spec"]["suspend"] is True


@pytest.mark.long
def test_an_ingest_adds_to_the_bucket_what_is_new(
    overlays: dict[str, list[Manifest]], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store.become("ingest", monkeypatch)
    words, shards = _words(overlays["gpu"]), Location.of("s3://selfgan/shards/bedroom")

    def put(*seeds: int) -> None:
        for seed in seeds:
            store.put(f"sources/bedroom/{seed}.png", _png(seed))

    put(*range(20))
    code, _, err = called(pipelines_main, *words)
    assert code == 2 and "holds no data set to append to" in err
    code, _, err = called(pipelines_main, *_words(_first(overlays["gpu"])))
    assert code == 0, err
    put(*range(20, 25))
    for _ in range(2):  # Then there is nothing new.
        code, _, err = called(pipelines_main, *words)
        assert code == 0, err
        manifest = read_manifest(shards)
        assert (manifest.version, manifest.rows) == (2, 25)


def test_an_ingest_adds_to_the_volume_where_there_is_no_bucket(
    overlays: dict[str, list[Manifest]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = _words(overlays["local"], storage=str(tmp_path))
    run = load(words[2], words[3:])
    ingest(Digits(), run.data.transform, Location.of(str(run.data.shards)))  # As the first retraining does.
    for label in range(10):
        folder = tmp_path / "sources" / "digits" / str(label)
        folder.mkdir(parents=True)
        (folder / "new.png").write_bytes(_png(label))
    code, _, err = called(pipelines_main, *words)
    assert code == 0, err
    target = Location.of(str(run.data.shards))
    manifest = read_manifest(target)
    assert (manifest.version, manifest.rows) == (2, 1807)
    blocks = Blocks(target, manifest)
    labels: list[int] = []
    for number in range(len(blocks)):
        block = blocks.open(number)
        labels += block.labels.tolist()
        block.close()
    assert labels[-10:] == list(range(10))


def test_an_upload_replaces_the_target_or_says_why_not(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, target = tmp_path / "mlflow.dump", f"s3://selfgan/backups/{JOB}.dump"
    for content in (b"one", b"another"):  # A pod that is started again.
        file.write_bytes(content)
        for where in (target, str(tmp_path / "storage" / "backups" / f"{JOB}.dump")):
            store.become("backup", monkeypatch)
            code, out, err = called(upload_main, str(file), where)
            assert (code, err) == (0, "")
            assert out == f"{where}: {len(content):,} bytes\n"
            store.become(PERSON, monkeypatch)  # The backup may not read it.
            assert Location.of(where).read() == content
    code, _, err = called(upload_main, str(tmp_path / "none.dump"), target)
    assert code == 1 and "none.dump" in err
    code, _, err = called(upload_main, str(file), "s3://elsewhere/mlflow.dump")
    assert code == 1 and "elsewhere" in err
    code, _, err = called(upload_main, str(file), "s3://key:secret@selfgan/mlflow.dump")
    assert code == 2 and "credentials" in err and "secret@" not in err


@pytest.mark.parametrize("overlay", ["gpu", "tpu", "local"])
def test_a_backup_goes_where_its_pod_can_write(overlays: dict[str, list[Manifest]], overlay: str) -> None:
    manifests = overlays[overlay]
    dump, upload = _pod(manifests, BACKUP).containers
    file, target = (resolved(word, variables(upload, manifests)) for word in upload["args"])
    assert f"--file={file}" in dump["command"]
    mounted = {mount["mountPath"] for mount in upload["volumeMounts"]}
    assert target.endswith("/backups/JOB_NAME.dump")
    assert target.startswith("s3://" if overlay != "local" else "/storage/")
    assert overlay != "local" or "/storage" in mounted


#: What MLflow's database holds: runs, a model, and the users who may log in.
_FILL = """
import sys
import mlflow
from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

client = mlflow.MlflowClient(sys.argv[1], sys.argv[1])
run = client.create_run(client.create_experiment("digits"))
client.log_param(run.info.run_id, "recipe", "digits")
for step in range(50):
    client.log_metric(run.info.run_id, "loss", 1 / (step + 1), step=step)
client.create_registered_model("selfgan-digits")
client.create_model_version("selfgan-digits", "s3://selfgan/mlflow/1", run.info.run_id)
client.set_registered_model_alias("selfgan-digits", "champion", "1")
users = SqlAlchemyStore()
users.init_db(sys.argv[1])
users.create_user("admin", "a-password-of-theirs", is_admin=True)
"""
_READ = """
import sys
import mlflow

client = mlflow.MlflowClient(sys.argv[1], sys.argv[1])
found = client.get_model_version_by_alias("selfgan-digits", "champion")
print(found.version, len(client.get_metric_history(found.run_id, "loss")))
"""
#: kubectl and aws, as far as the runbook calls them: a command in the server's container is one beside the server.
_KUBECTL = """#!/bin/sh
case " $* " in
  *" exec "*) while [ "$1" != -- ]; do shift; done; shift; exec "$@" ;;
esac
printf '%s\\n' "$*" >> "$CALLS"
"""
_AWS = f"""#!{sys.executable}
import sys
import boto3

assert sys.argv[1:3] == ["s3", "cp"] and sys.argv[4] == "-", sys.argv
bucket, _, key = sys.argv[3].removeprefix("s3://").partition("/")
sys.stdout.buffer.write(boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())
"""


def _restore(server: postgres.Server, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs what the runbook says."""
    text = (ROOT / "docs" / "runbook.md").read_text()
    (commands,) = [block for block in text.split("```")[1::2] if "pg_restore" in block]
    commands = textwrap.dedent(commands).replace("BUCKET", "selfgan").replace("NAME.dump", f"{JOB}.dump")
    for name, script in {"kubectl": _KUBECTL, "aws": _AWS}.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{server.environment['PATH']}"
    return subprocess.run(
        ["bash", "-c", commands],
        env={**server.environment, "PATH": path, "CALLS": str(folder / "calls")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.long
def test_a_backup_is_restored_as_the_runbook_says(
    overlays: dict[str, list[Manifest]], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.become(PERSON, monkeypatch)
    try:
        postgres.programs()
        postgres.driver(tmp_path / "driver")
    except postgres.NoPostgresError as error:
        pytest.skip(f"BACKUP AND RESTORE NOT TESTED: {error}")
    manifests, uri = overlays["gpu"], "postgresql+psycopg2://mlflow@{}/mlflow"
    found = {**os.environ, "PGPASSWORD": postgres.PASSWORD, "PYTHONPATH": f"{tmp_path / 'driver'}:{ROOT}"}

    def run(*words: str, address: str, role: str = PERSON) -> str:
        """A command of a manifest, where the server is elsewhere, and so is what the containers share."""
        here = [word.replace("postgres:5432", address).replace("/dump", str(tmp_path)) for word in words]
        programs = Path(sys.executable).parent if here[0] in ("python", "mlflow") else postgres.programs()
        done = subprocess.run(
            [str(programs / here[0]), *here[1:]],
            env={**found, **store.environment(role)}, cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    dump, upload = _pod(manifests, BACKUP).containers
    names = {**variables(upload, manifests), "JOB_NAME": JOB}
    with postgres.server() as lost:
        run(*_pod(manifests, MLFLOW).spec["initContainers"][0]["command"], address=lost.address)
        run("python", "-c", _FILL, uri.format(lost.address), address=lost.address)
        run(*dump["command"], address=lost.address)
        words = [*upload["command"], *(resolved(word, names) for word in upload["args"])]
        assert JOB in run(*words, address=lost.address, role="backup")
        before = lost.plain("mlflow")
    assert "champion" in before and "admin" in before
    with postgres.server() as server:
        wrong = ["psql", "--username=mlflow", "--dbname=mlflow", "--command=CREATE TABLE begun_anew (row int)"]
        subprocess.run(wrong, env=server.environment, stdout=subprocess.DEVNULL, check=True)
        whole = store.client().get_object(Bucket="selfgan", Key=f"backups/{JOB}.dump")["Body"].read()
        store.put(f"backups/{JOB}.dump", whole[: len(whole) // 2])
        assert _restore(server, tmp_path).returncode != 0
        assert "begun_anew" in server.plain("mlflow")  # Nothing has changed.
        store.put(f"backups/{JOB}.dump", whole)
        (tmp_path / "calls").unlink()
        done = _restore(server, tmp_path)
        assert done.returncode == 0, done.stderr
        assert server.plain("mlflow") == before
        assert "begun_anew" in server.plain("mlflow_before")
        scaled = [line for line in (tmp_path / "calls").read_text().splitlines() if " scale " in line]
        assert [line.partition("--replicas=")[2] for line in scaled] == ["0", "1"]
        assert run("python", "-c", _READ, uri.format(server.address), address=server.address).split() == ["1", "50"]
