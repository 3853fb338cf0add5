"""A run is written by one process at a time, wherever others that start or resume it are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.components import ConfigError
from pipelines.storage.lease import lease
from pipelines.storage.location import Location, join

#: So long a writer on another machine may be silent. One that has died on this machine is not waited for.
PATIENCE_SECONDS = 30.0


@contextmanager
def claimed(root: str, name: str, lost: Callable[[], None]) -> Iterator[None]:
    """Within, the run of that name in the storage `root` is this process's alone.

    Args:
        lost: is called, on another thread, if this process was silent for so long that another has taken the run over:
            it is to stop at once, and to write nothing more.

    Raises:
        ConfigError: another process has it.
    """
    with lease(Location.of(join(root, f".claims/{name}")), PATIENCE_SECONDS, lost) as mine:
        if not mine:
            raise ConfigError(f"run {name}: another process is at work on it in {root}; stop that, or wait for its end")
        yield
