"""One run, one writer: who starts or resumes a run that another process has is told so, and nothing is written."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import ROOT, train_command
from tests.patience import PATIENCE, wait_until
from tests.runs.test_runs import options, run_of, train

STARTING = """
import sys, time
from pathlib import Path
import mlflow
from service.tracking import tracker
folder, name = Path(sys.argv[1]), sys.argv[2]
(folder / f"{name}.ready").touch()
while not (folder / "go").exists():
    time.sleep(0.001)
arguments = dict(parameters={"a": 1}, tags={}, artifacts=None, resume=False)
print(tracker.start_run(f"sqlite:///{folder}/new/mlflow.db", "selfgan", name, name, **arguments))
"""


@pytest.mark.long
def test_who_comes_second_gets_one_line(tmp_path: Path, ray_cluster: tuple[str, str]) -> None:
    words = [word for word in options(tmp_path, "name=mine") if not word.startswith("steps=")]
    first = train_command("digits", *words, "steps=100000", address=ray_cluster[0])
    wait_until((tmp_path / ".claims" / "mine").exists, "the first has claimed the run", first)
    assert not (tmp_path / "mine" / "run.json").exists(), "the run is claimed before it is written"
    code, _, err = train("digits", *words, address=ray_cluster[0])
    refused = f"error: run mine: another process is at work on it in {tmp_path}; stop that, or wait for its end\n"
    assert (code, err) == (2, refused)
    wait_until(lambda: list((tmp_path / "mine").glob("step-*/state.json")), "the first goes on", first)
    code, _, err = train("resume=mine", f"storage={tmp_path}", address=ray_cluster[0])
    assert (code, err) == (2, refused)
    first.kill()
    first.communicate(timeout=PATIENCE)
    # It is known to be dead at once; what it has left is there.
    newest = max(int(path.parent.name[5:]) for path in (tmp_path / "mine").glob("step-*/state.json"))
    code, out, err = train("resume=mine", f"storage={tmp_path}", f"steps={newest + 1}", address=ray_cluster[0])
    assert code == 0, err
    assert f"going on from step {newest}" in out


@pytest.mark.long
def test_who_was_taken_over_stops_at_once_and_writes_nothing(tmp_path: Path, ray_cluster: tuple[str, str]) -> None:
    words = options(tmp_path, "name=lost", "steps=100000", "checkpoints.every=50000", "logging.samples_every=50000")
    first = train_command("digits", *words, address=ray_cluster[0])
    journal = tmp_path / "lost" / "metrics.jsonl"
    wait_until(lambda: journal.exists() and "loss/real" in journal.read_text(), "it trains", first)
    (tmp_path / ".claims" / "lost" / "lease-00000002").write_bytes(b"another's beat")
    _, err = first.communicate(timeout=PATIENCE)
    assert (first.returncode, err) == (1, "error: another process has taken the run over while this one was silent\n")
    client, run_id = run_of(tmp_path, "lost")
    assert client.get_run(run_id).info.status == "RUNNING", "it is the other's to end"
    assert not list((tmp_path / "lost").glob("step-*"))


def test_first_runs_that_start_together_find_one_database(tmp_path: Path) -> None:
    names = ["a", "b", "c"]

    def start(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", STARTING, str(tmp_path), name]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)

    with ThreadPoolExecutor(len(names)) as threads:
        starting = [threads.submit(start, name) for name in names]
        wait_until(lambda: len(list(tmp_path.glob("*.ready"))) == len(names), "all are ready")
        (tmp_path / "go").touch()
        done = [one.result() for one in starting]
    assert [one.returncode for one in done] == [0, 0, 0], [one.stderr[-500:] for one in done]
    client = MlflowClient(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert {client.get_run(one.stdout.strip()).info.run_name for one in done} == set(names)
