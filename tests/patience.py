"""How tests wait for what must come: one limit, which only what hangs can meet, however busy the machine is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

#: For anything that ends by itself. A quiet machine needs a minute at most, and a busy one is no fault of the code.
PATIENCE = 1200.0


def wait_until(condition: Callable[[], object], what: str, process: subprocess.Popen[str] | None = None) -> None:
    """Waits for a condition; fails at once if the process that is to bring it about has ended."""
    began = time.monotonic()
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            raise AssertionError(f"{what}: the process has ended before that: {process.communicate()}")
        assert time.monotonic() - began < PATIENCE, f"{what}: waited {PATIENCE:.0f} s in vain"
        time.sleep(0.05)
