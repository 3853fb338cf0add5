"""Traces of steps by torch's profiler, as files that Perfetto and Chrome's tracing page open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.profiler import profile, schedule

#: The profiler's own first step is slow, and is not kept.
_WARM_UP = 1


class Trace:
    """Follows the steps of the thread that it is made in, and writes one trace of some of them.

    Args:
        after: steps to do before; in the last of them the profiler warms up.
        steps: steps to trace.
        folder: where the file is to lie.
        written: hears of the file.
    """

    def __init__(self, after: int, steps: int, folder: Path, written: Callable[[Path], None]) -> None:
        plan = schedule(wait=after - _WARM_UP, warmup=_WARM_UP, active=steps, repeat=1)
        self._steps, self._folder, self._written = steps, folder, written
        self._done, self._left = 0, after + steps
        self._profiler: profile | None = profile(schedule=plan, on_trace_ready=self._write)
        self._profiler.start()

    def step(self, done: int) -> None:
        """`done` steps of the run are done."""
        if self._profiler is None:
            return
        self._done, self._left = done, self._left - 1
        self._profiler.step()
        if not self._left:
            self.close()

    def close(self) -> None:
        """Look no more. What was traced so far is written, if the run ends before its trace does."""
        if self._profiler is not None:
            profiler, self._profiler = self._profiler, None
            profiler.stop()

    def _write(self, traced: Any) -> None:
        first = self._done - (self._steps - self._left) + 1
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"steps-{first:08}-{self._done:08}.json.gz"
        traced.export_chrome_trace(str(file))
        self._written(file)
