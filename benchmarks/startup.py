"""From ``python service/train.py`` to the first step, in a warm environment, and what the time goes to.

In turn with the least that Ray Train runs (`benchmarks.hello_trainer`), by its own trainers with torch and without.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

_ROOT = Path(__file__).resolve().parent.parent
_REPEATS = 3
_LINE = re.compile(r"first step after ([\d.]+) s: (.+)")


def main() -> None:
    totals: list[float] = []
    least: dict[str, list[float]] = {"torch": [], "none": []}
    parts: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as storage:
        command = [sys.executable, str(_ROOT / "service" / "train.py"), f"storage={storage}", "steps=20"]
        for repeat in range(_REPEATS + 1):
            began = time.time()
            done = subprocess.run([*command, f"name=run-{repeat}"], capture_output=True, text=True, check=True)
            found = _LINE.search(done.stdout)
            assert found, done.stdout
            if repeat == 0:  # It also writes the shards and creates the database.
                print(f"  the very first: {float(found[1]):.1f} s (shards and the MLflow database are made)")
                continue
            totals.append(float(found[1]))
            for part in found[2].split(", "):
                name, seconds = part.rsplit(" ", 1)
                parts.setdefault(name, []).append(float(seconds))
            print(f"  run {repeat}: {found[0]}; whole command {time.time() - began:.1f} s", flush=True)
            for framework, values in least.items():
                values.append(_hello(framework))
    print(f"  first step after {median(totals):.1f} s, of which")
    for name, values in parts.items():
        print(f"    {name:<24}{median(values):5.1f} s")
    for framework, values in least.items():
        print(f"  Ray Train's first line, framework {framework}: {median(values):.1f} s")


def _hello(framework: str) -> float:
    command = [sys.executable, "-m", "benchmarks.hello_trainer", framework]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=_ROOT)
    found = re.search(r"first line after ([\d.]+) s", done.stdout)
    assert found, done.stdout
    return float(found[1])
