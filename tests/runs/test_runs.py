"""Whole runs, as a user starts them: the command line, Ray Train on a running cluster, MLflow on SQLite."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from torch import Tensor

from pipelines.storage.location import Location
from service.artifacts import best, checkpoints
from service.configuration.recipe import load
from service.train import main
from tests.conftest import RAY_ENVIRONMENT, ROOT, called, free_port, train_command
from tests.patience import PATIENCE, wait_until
from tests.replicas.test_replicas import TINY, distance
from tests.runs.test_traces import traced
from tests.runs.test_tracking import shown

SHORT = [*TINY, "batch.size=24", "logging.every=5", "checkpoints.score_images=64", "cluster.cpus_per_replica=1"]
STEPS = 60


def train(*words: str, address: str | None = None) -> tuple[int, str, str]:
    return called(main, *words, address=address)


def options(storage: Path, *more: str) -> list[str]:
    words = [*SHORT, f"storage={storage}", f"steps={STEPS}", "checkpoints.every=20", "logging.samples_every=30", *more]
    return [f"{key}={value}" for key, value in dict(word.split("=", 1) for word in words).items()]


def final(storage: Path, name: str, step: int = STEPS) -> dict[str, Tensor]:
    state = checkpoints.load(storage / name / f"step-{step:08}")
    return {**state.networks, **state.rows}


def run_of(storage: Path, name: str) -> tuple[MlflowClient, str]:
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("selfgan")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    return client, run.info.run_id


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_cluster: tuple[str, str]) -> tuple[Path, str]:
    """An uninterrupted run on two replicas: its storage, and what it printed."""
    storage = tmp_path_factory.mktemp("runs")
    words = options(storage, "replicas=2", "name=whole", "profile.steps=2", "profile.after=3")
    code, out, err = train("digits", *words, address=ray_cluster[0])
    assert code == 0, err
    return storage, out


def test_a_run_says_where_everything_is(finished: tuple[Path, str]) -> None:
    storage, out = finished
    summary = dict(line.split(maxsplit=1) for line in out[out.index("done:") :].splitlines()[1:])
    assert Image.open(summary["samples"]).size[0] > 200
    assert Image.open(summary["curves"]).size[0] > 400
    assert summary["model"] == "models:/selfgan-digits/1"
    assert f"mlflow ui --backend-store-uri sqlite:///{storage}/mlflow.db" in summary["MLflow"]
    assert f"step {STEPS}/{STEPS}" in out
    peaks = [int(peak.replace(",", "")) for peak in re.findall(r"([\d,]+) MB", summary["memory"])]
    assert len(peaks) == 2 and all(100 < peak < 10_000 for peak in peaks), summary["memory"]


def test_some_steps_were_traced(finished: tuple[Path, str]) -> None:
    storage, out = finished
    trace = storage / "whole" / "profile" / "steps-00000004-00000005.json.gz"
    assert f"trace of torch's profiler: {trace}" in out
    assert traced(trace, "aten::convolution_backward") > 0
    client, run_id = run_of(storage, "whole")
    assert [Path(file.path).name for file in client.list_artifacts(run_id, "profile")] == [trace.name]


def test_mlflow_has_parameters_every_loss_and_weight_samples_and_references(finished: tuple[Path, str]) -> None:
    storage, _ = finished
    client, run_id = run_of(storage, "whole")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["scheme.balance.form"] == "weighted"
    assert run.data.params["network.generator_channels"] == "8"
    assert [data.dataset.digest for data in run.inputs.dataset_inputs] == [run.data.tags["manifest.hash"]]
    assert len(run.data.tags["manifest.hash"]) == 16
    assert "Trains 60 steps" in run.data.tags["mlflow.note.content"]
    assert run.data.tags["checkpoint.last"] == str(storage / "whole" / f"step-{STEPS:08}")
    for name in ("loss/generator", "loss/real", "loss/fake", "weight/generator", "weight/real", "weight/fake"):
        assert [metric.step for metric in client.get_metric_history(run_id, name)] == list(range(5, STEPS + 1, 5))
    memory = [f"peak_memory_bytes/replica-{rank}" for rank in range(2)]
    for name in ("images_per_second", "seconds_per_step", "diversity", "checkpoint/score", *memory):
        assert name in run.data.metrics
    files = {file.path for file in client.list_artifacts(run_id, "samples")}
    assert files == {"samples/step-00000030.png", "samples/step-00000060.png"}
    assert shown(client, run_id) == [("samples", 30), ("samples", 60)]


def test_the_registered_model_gives_images_without_this_repository(finished: tuple[Path, str], tmp_path: Path) -> None:
    storage, _ = finished
    script = f"""
import importlib.util, sys
sys.path = [place for place in sys.path if place != {str(ROOT)!r} and "__editable__" not in place]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")
                 and "editable" not in getattr(finder, "__name__", "")]
assert importlib.util.find_spec("service") is None, "the repository is on the path"
import mlflow, numpy
mlflow.set_tracking_uri("sqlite:///{storage}/mlflow.db")
model = mlflow.pyfunc.load_model("models:/selfgan-digits/1")
assert model.metadata.signature is not None
images = model.predict({{"n": [3, 2], "seed": [7, 8]}})
again = model.predict({{"n": [2], "seed": [8]}})
assert images.dtype == numpy.uint8 and images.shape == (5, 16, 16, 1), images.shape
assert (images[3:] == again).all() and images.std() > 0
numpy.save("images.npy", images)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.long
def test_the_last_checkpoints_and_the_best_are_kept(finished: tuple[Path, str], ray_cluster: tuple[str, str]) -> None:
    storage, _ = finished
    words = options(storage, "name=kept", "checkpoints.every=10", "checkpoints.keep=2", "optimizer.learning_rate=0.3")
    code, _, err = train("digits", *words, address=ray_cluster[0])
    assert code == 0, err
    kept = {path.name for path in (storage / "kept").glob("step-*")}
    assert kept == {"step-00000050", "step-00000060"}
    client, run_id = run_of(storage, "kept")
    scores = {metric.step: metric.value for metric in client.get_metric_history(run_id, "checkpoint/score")}
    found = best.read(Location.of(str(storage / "kept")))
    assert found and found.step == min(scores, key=lambda step: scores[step])
    assert [path.name for path in (storage / "kept" / "best").iterdir()] == [f"step-{found.step:08}"]
    assert checkpoints.load(storage / "kept" / found.folder).step == found.step


def replicas(address: str) -> Iterator[psutil.Process]:
    """The processes that are training on a cluster: those of one run, as tests run one at a time."""
    port = ":" + address.rpartition(":")[2]  # Ray names the host as it likes.
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = process.parent()
            if parent and "RayTrainWorker" in " ".join(process.cmdline()) and port in " ".join(parent.cmdline()):
                yield process


def test_a_killed_replica_costs_nothing(finished: tuple[Path, str], ray_cluster: tuple[str, str]) -> None:
    storage, _ = finished
    words = options(storage, "replicas=2", "name=killed")
    command = train_command("digits", *words, address=ray_cluster[0])
    journal = storage / "killed" / "metrics.jsonl"
    # Past the first checkpoint, before the second: no boundary, so the replica dies within a step.
    first = storage / "killed" / "step-00000020" / "state.json"
    wait_until(first.exists, "the first checkpoint", command)
    victims = list(replicas(ray_cluster[0]))
    assert victims, "no replica to kill"
    os.kill(victims[-1].pid, signal.SIGKILL)
    out, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, err
    assert "attempt 2" in out
    whole, again = final(storage, "whole"), final(storage, "killed")
    for key, value in whole.items():
        assert torch.equal(value, again[key]), key
    steps = [json.loads(line)["step"] for line in journal.read_text().splitlines() if "loss/real" in line]
    assert steps == list(range(5, STEPS + 1, 5))


def test_an_interrupted_run_says_how_to_go_on(finished: tuple[Path, str], ray_cluster: tuple[str, str]) -> None:
    storage, _ = finished
    words = [word for word in options(storage, "name=interrupted") if not word.startswith("steps")]
    command = train_command("digits", *words, "steps=100000", address=ray_cluster[0])
    first = storage / "interrupted" / "step-00000020" / "state.json"
    wait_until(first.exists, "the first checkpoint", command)
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=PATIENCE)
    assert command.returncode == 130
    step = max(int(path.parent.name[5:]) for path in (storage / "interrupted").glob("step-*/state.json"))
    go_on = f"selfgan train resume=interrupted storage={storage} goes on from step {step:,}"
    assert err.splitlines() == [f"interrupted; {go_on}"]
    client, run_id = run_of(storage, "interrupted")
    assert client.get_run(run_id).info.status == "KILLED"
    wait_until(lambda: not list(replicas(ray_cluster[0])), "the replicas end")


@pytest.mark.long
def test_a_stopped_run_goes_on_with_another_number_of_replicas(
    finished: tuple[Path, str], ray_cluster: tuple[str, str]
) -> None:
    storage, _ = finished
    half = [word for word in options(storage, "replicas=3", "name=half") if not word.startswith("steps")]
    code, _, err = train("digits", *half, "steps=40", address=ray_cluster[0])
    assert code == 0, err
    words = ("resume=half", f"storage={storage}", f"steps={STEPS}", "replicas=1")
    code, _out, err = train(*words, address=ray_cluster[0])
    assert code == 0, err
    assert distance(final(storage, "half"), final(storage, "whole")) < 1e-10
    code, _, err = train(*words, "optimizer.learning_rate=0.1", address=ray_cluster[0])
    assert (code, err.count("\n")) == (2, 1)
    assert "optimizer.learning_rate would make it another one" in err


def test_a_divergence_ends_the_run_and_says_where(finished: tuple[Path, str], ray_cluster: tuple[str, str]) -> None:
    storage, _ = finished
    words = options(storage, "replicas=2", "name=diverged", "dtype=float32", "optimizer.learning_rate=1e30")
    code, out, err = train("digits", *words, address=ray_cluster[0])
    assert code == 1
    assert "error: diverged at step" in err
    assert " not finite" in err
    assert "Traceback" not in out + err
    client, run_id = run_of(storage, "diverged")
    assert client.get_run(run_id).info.status == "FAILED"


@pytest.mark.long
def test_ray_job_submit_runs_the_same_command(finished: tuple[Path, str], ray_cluster: tuple[str, str]) -> None:
    storage, _ = finished
    ray = Path(sys.executable).with_name("ray")
    words = " ".join(options(storage, "replicas=2", "name=submitted"))
    submit = [str(ray), "job", "submit", "--address", ray_cluster[1], "--working-dir", ".", "--"]
    done = subprocess.run(
        [*submit, *f"{sys.executable} service/train.py digits {words}".split()],
        cwd=ROOT, env={**os.environ, **RAY_ENVIRONMENT}, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    whole, again = final(storage, "whole"), final(storage, "submitted")
    assert all(torch.equal(value, again[key]) for key, value in whole.items())


def test_more_replicas_than_the_cluster_has_is_refused(tmp_path: Path, ray_cluster: tuple[str, str]) -> None:
    code, _, err = train("digits", *options(tmp_path, "replicas=5"), address=ray_cluster[0])
    assert (code, err.count("\n")) == (2, 1)
    assert "the cluster has 4 CPUs, room for 4 replicas with 1 each, not for 5" in err


def test_an_address_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    address = f"cluster.address=127.0.0.1:{free_port()}"
    code, _, err = train("digits", *options(tmp_path, address))
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("error: cluster.address: no Ray cluster answers at 127.0.0.1:")


def test_the_options_of_these_runs_are_those_of_the_recipe() -> None:
    assert load("digits", SHORT).batch.size == 24
