"""``python -m benchmarks [NAME [KEY=VALUE ...] ...]``: runs those that are named in `ALL`.

By default all of them, but `large`, which wants 16 GB of disk. Those that have options say in their files which.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from benchmarks import (
    bits,
    compiled,
    data,
    exact,
    gpu,
    kills,
    large,
    launches,
    memory,
    passes,
    recovery,
    replicas,
    scale,
    startup,
    step,
    weights,
)

ALL: dict[str, Callable[..., None]] = {
    "step": step.main,
    "launches": launches.main,
    "passes": passes.main,
    "weights": weights.main,
    "replicas": replicas.main,
    "bits": bits.main,
    "exact": exact.main,
    "compile": compiled.main,
    "gpu": gpu.main,
    "memory": memory.main,
    "scale": scale.main,
    "startup": startup.main,
    "kills": kills.main,
    "recovery": recovery.main,
    "ingest": data.on_photographs(data.ingesting),
    "large": large.main,
    "read": data.on_photographs(data.decoded),
    "decode": data.on_photographs(data.encoded),
    "bucket": data.on_photographs(data.bucket),
}

if __name__ == "__main__":
    chosen: list[tuple[str, list[str]]] = []
    for word in sys.argv[1:] or [name for name in ALL if name != "large"]:
        if "=" in word and chosen:
            chosen[-1][1].append(word)
        else:
            chosen.append((word, []))
    unknown = [name for name, _ in chosen if name not in ALL]
    if unknown:
        print(f"error: no benchmark {unknown[0]!r}; known: {', '.join(ALL)}", file=sys.stderr)
        sys.exit(2)
    for name, words in chosen:
        began = time.time()
        print(f"== {name}", flush=True)
        ALL[name](*words)
        print(f"   ({time.time() - began:.0f} s)", flush=True)
