"""From ``python service/train.py`` to the first step, in a warm environment, and what the time goes to."""

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
    print(f"  first step after {median(totals):.1f} s, of which")
    for name, values in parts.items():
        print(f"    {name:<24}{median(values):5.1f} s")
