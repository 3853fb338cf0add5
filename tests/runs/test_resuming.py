"""Runs that go on: from the newest checkpoint that is whole, on all replicas from the same."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import RAY_ENVIRONMENT, ROOT
from tests.patience import PATIENCE, wait_until
from tests.runs.test_runs import final, options, train


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, ray_cluster: tuple[str, str]) -> Path:
    """With a run on two replicas that has ended at step 60."""
    folder = tmp_path_factory.mktemp("runs")
    code, _, err = train("digits", *options(folder, "replicas=2", "name=whole"), address=ray_cluster[0])
    assert code == 0, err
    return folder


def test_a_damaged_checkpoint_is_told_and_done_again(storage: Path, ray_cluster: tuple[str, str]) -> None:
    """Whatever Ray has noted: its notes name the damaged one, and are damaged themselves."""
    whole = final(storage, "whole")
    file = storage / "whole" / "step-00000060" / "optimizers.pt"
    file.write_bytes(file.read_bytes()[:1000])
    (storage / "whole" / "checkpoint_manager_snapshot.json").write_text("{")
    code, out, err = train("resume=whole", f"storage={storage}", address=ray_cluster[0])
    assert code == 0, err
    (warning,) = [line for line in out.splitlines() if line.startswith("warning")]
    assert "step-00000060 is damaged: optimizers.pt has 1,000 of" in warning
    assert "going on from step 40" in out.splitlines()
    (told,) = [line for line in out.splitlines() if line.startswith("checkpoint ")]
    place = re.escape(str(storage / "whole" / "step-00000040"))
    assert re.fullmatch(rf"checkpoint {place}, written 20\d\d-\S+\+00:00 \(replicas: 2 then, 2 now\)", told), told
    again = final(storage, "whole")
    assert all(torch.equal(value, again[key]) for key, value in whole.items())


def test_a_run_that_is_done_is_not_trained_again(storage: Path, ray_cluster: tuple[str, str]) -> None:
    file = storage / "whole" / "step-00000060" / "networks.safetensors"
    before = file.stat().st_mtime_ns
    code, out, err = train("resume=whole", f"storage={storage}", address=ray_cluster[0])
    assert code == 0, err
    assert "going on from step 60" in out
    assert "selfgan-digits/" in out
    assert file.stat().st_mtime_ns == before


@pytest.mark.long
def test_a_run_without_a_checkpoint_says_so(storage: Path, ray_cluster: tuple[str, str]) -> None:
    words = options(storage, "name=none", "optimizer.learning_rate=1e30", "dtype=float32")
    assert train("digits", *words, address=ray_cluster[0])[0] == 1
    code, out, _ = train("resume=none", f"storage={storage}", address=ray_cluster[0])
    assert code == 1
    assert "there is no checkpoint: beginning at the first step" in out


@pytest.mark.long
def test_stopping_the_whole_terminal_after_a_checkpoint_does_not_lose_it(tmp_path: Path) -> None:
    """Ctrl-C there reaches every process of a local cluster at once."""
    words = [word for word in options(tmp_path, "name=group", "cluster.address=local") if not word.startswith("steps=")]
    command = [sys.executable, str(ROOT / "service" / "train.py"), "digits", *words, "steps=100000"]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **RAY_ENVIRONMENT}, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    kept = tmp_path / "group"
    wait_until(lambda: list(kept.glob("step-*/state.json")), "the first checkpoint", process)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    newest = max(int(file.parent.name.removeprefix("step-")) for file in kept.glob("step-*/state.json"))
    code, out, err = train("resume=group", f"storage={tmp_path}", f"steps={newest + 5}", "cluster.address=local")
    assert code == 0, err
    assert f"going on from step {newest}" in out
