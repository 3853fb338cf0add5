"""Cells side by side: each is computed by one thread, and as many at a time as there are threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")


class SideBySide:
    """Threads that compute cells. Each of torch's kernels that one of them calls stays on that thread."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._count = 1

    def map(self, function: Callable[[Given], Made], given: Iterable[Given], device: torch.device) -> list[Made]:
        """What the function makes of each, on that device, where it has threads of torch's; records no gradient."""
        count = torch.get_num_threads() if device.type == "cpu" else 1
        if count == 1:
            with torch.no_grad():
                return list(map(function, given))
        if self._threads is None or count != self._count:
            self._start(count)
        assert self._threads is not None

        def without_gradient(one: Given) -> Made:
            with torch.no_grad():  # What is recorded is a thread's own choice.
                return function(one)

        return list(self._threads.map(without_gradient, given))

    def _start(self, count: int) -> None:
        if self._threads is not None:
            self._threads.shutdown()
        self._threads, self._count = ThreadPoolExecutor(count, "cells"), count
        everyone = Barrier(count, timeout=60)  # Where no more threads may start, that is told, and not waited for.

        def begin(_: int) -> None:
            torch.get_num_threads()  # The first question makes the process's number the thread's own.
            torch.set_num_threads(1)
            everyone.wait()

        list(self._threads.map(begin, range(count)))
        torch.set_num_threads(count)  # They have set it for threads to come, too.


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, the CPU's kernels run on one thread."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
