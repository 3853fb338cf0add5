"""From ``python service/train.py`` to the first step, in a warm environment, and what the time goes to.

In turn with the least that Ray Train runs (`benchmarks.hello_trainer`), by its own trainers with torch and without.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.clusters import nodes

_ROOT = Path(__file__).resolve().parent.parent
_REPEATS = 3
_LINE = re.compile(r"first step after ([\d.]+) s: (.+)")


def main() -> None:
    least: dict[str, list[float]] = {"torch": [], "none": []}
    with tempfile.TemporaryDirectory() as storage:
        first = _run(storage)  # It also writes the shards and creates the database.
        print(f"  the very first: {first['in all']:.1f} s (shards and the MLflow database are made)")
        own = []
        for _ in range(_REPEATS):
            own.append(_run(storage))
            for framework, values in least.items():
                values.append(_hello(framework))
        _print("on a cluster of its own", own)
        with nodes(2) as cluster:
            _print("on a cluster that stands", [_run(storage, cluster.address) for _ in range(_REPEATS)])
    for framework, values in least.items():
        print(f"  Ray Train's first line, framework {framework}: {median(values):.1f} s")


def _run(storage: str, address: str = "local") -> dict[str, float]:
    """Seconds until the first step, in all and by what they go to."""
    command = [sys.executable, str(_ROOT / "service" / "train.py"), f"storage={storage}", "steps=20"]
    words = [f"cluster.address={address}", f"name=run-{time.time_ns()}"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=True)
    found = _LINE.search(done.stdout)
    assert found, done.stdout
    parts = (part.rsplit(" ", 1) for part in found[2].split(", "))
    return {"in all": float(found[1]), **{name: float(seconds) for name, seconds in parts}}


def _print(title: str, runs: Sequence[Mapping[str, float]]) -> None:
    parts = ", ".join(f"{name} {median(run[name] for run in runs):.1f}" for name in runs[0])
    print(f"  {title}, seconds to the first step: {parts}", flush=True)


def _hello(framework: str) -> float:
    command = [sys.executable, "-m", "benchmarks.hello_trainer", framework]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=_ROOT)
    found = re.search(r"first line after ([\d.]+) s", done.stdout)
    assert found, done.stdout
    return float(found[1])
