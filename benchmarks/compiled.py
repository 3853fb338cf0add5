"""Steps by torch.compile against plain ones, in turn in one process, and how long the code takes to make.

Options: ``recipes=self-dcgan-mnist,digits`` and ``threads=1``.
"""

from __future__ import annotations

import tempfile
import time
from statistics import median

import torch

from benchmarks.in_process import opened

RECIPES = "digits,self-dcgan-mnist,dcgan-mnist,self-gan-mnist,gan-mnist"
BLOCK, BLOCKS = 5, 10


def main(*words: str) -> None:
    options = {"recipes": RECIPES, "threads": "1"} | dict(word.split("=", 1) for word in words)
    torch.set_num_threads(int(options["threads"]))
    for recipe in options["recipes"].split(","):
        with (
            tempfile.TemporaryDirectory() as storage,
            opened(recipe, ["data.source=digits", "compile=true"], storage) as compiled,
            opened(recipe, ["data.source=digits"], storage) as plain,
        ):
            began = time.perf_counter()
            for step in range(3):
                compiled.step(step)
            made = time.perf_counter() - began
            for step in range(3):
                plain.step(step)
            seconds: dict[bool, list[float]] = {True: [], False: []}
            for block in range(1, BLOCKS + 1):
                for kind, replica in ((True, compiled), (False, plain)):
                    began = time.perf_counter()
                    for step in range(block * BLOCK, (block + 1) * BLOCK):
                        replica.step(step)
                    seconds[kind].append((time.perf_counter() - began) / BLOCK)
        ratio = median(fast / slow for fast, slow in zip(seconds[True][2:], seconds[False][2:], strict=True))
        ours, theirs = (median(values[2:]) * 1e3 for values in seconds.values())
        print(
            f"  {recipe:<18} {options['threads']} thread(s): {ours:6.1f} ms compiled, {theirs:6.1f} ms plain, "
            f"{ratio:.2f} times; the first three steps took {made:.0f} s",
            flush=True,
        )
