"""``python -m benchmarks [NAME ...]``: runs the benchmarks that are named in `ALL`, all of them by default."""

from __future__ import annotations

import sys
import time

from benchmarks import data, exact, passes, replicas, startup, step, weights

ALL = {
    "step": step.main,
    "passes": passes.main,
    "weights": weights.main,
    "replicas": replicas.main,
    "exact": exact.main,
    "startup": startup.main,
    "ingest": data.on_photographs(data.ingesting),
    "read": data.on_photographs(data.decoded),
    "decode": data.on_photographs(data.encoded),
    "bucket": data.on_photographs(data.bucket),
}

if __name__ == "__main__":
    chosen = sys.argv[1:] or list(ALL)
    unknown = [name for name in chosen if name not in ALL]
    if unknown:
        print(f"error: no benchmark {unknown[0]!r}; known: {', '.join(ALL)}", file=sys.stderr)
        sys.exit(2)
    for name in chosen:
        began = time.time()
        print(f"== {name}", flush=True)
        ALL[name]()
        print(f"   ({time.time() - began:.0f} s)", flush=True)
