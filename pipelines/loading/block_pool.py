"""Open blocks, within a budget of memory: opened in the background before they are needed, closed after."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pipelines.loading.blocks import Block


class OverBudgetError(RuntimeError):
    """What is needed at once does not fit into the budget."""


@dataclass
class _Held:
    """A block that is open, or about to be."""

    block: Future[Block]
    users: int
    opened: Block | None = None


class BlockPool:
    """Blocks by number. Not to be shared between threads; it has its own for opening.

    What nobody uses stays open as long as nothing else needs its room: a small data set is read once.

    Args:
        open_block: opens one; runs in a thread of the pool's.
        sizes: bytes of every block.
        budget_bytes: of the blocks that are open or being opened.
        threads: how many are opened at once.
    """

    def __init__(
        self, open_block: Callable[[int], Block], sizes: Sequence[int], budget_bytes: int, threads: int
    ) -> None:
        self._open, self._sizes, self._budget = open_block, sizes, budget_bytes
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="blocks")
        self._held: dict[int, _Held] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self.used_bytes = 0

    def want(self, numbers: Sequence[int]) -> bool:
        """Start to open blocks, if there is room for all of them; returns whether there was."""
        new = [number for number in numbers if number not in self._held]
        size = sum(self._sizes[number] for number in new)
        spared = [number for number in self._idle if number not in numbers]
        while spared and self.used_bytes + size > self._budget:
            self._close(spared.pop(0))
        if self.used_bytes + size > self._budget:
            return False
        for number in new:
            self._held[number] = _Held(self._threads.submit(self._open, number), 0)
            self.used_bytes += self._sizes[number]
        for number in numbers:
            self._held[number].users += 1
            self._idle.pop(number, None)
        return True

    def need(self, numbers: Sequence[int]) -> None:
        """Like `want`. Raises OverBudgetError if there is no room."""
        if not self.want(numbers):
            size = sum(self._sizes[number] for number in numbers)
            raise OverBudgetError(
                f"the memory budget of {self._budget:,} bytes has no room for {size:,} more; "
                f"{self.used_bytes:,} are in use"
            )

    def get(self, number: int) -> Block:
        """A block that was wanted, when it is open. Raises what opening it raised."""
        held = self._held[number]
        if held.opened is None:
            held.opened = held.block.result()
        return held.opened

    def holds(self, number: int) -> bool:
        """Whether a block is open, or being opened."""
        return number in self._held

    def release(self, numbers: Sequence[int]) -> None:
        """Say that as many users of these blocks as are listed are done with them."""
        for number in numbers:
            held = self._held[number]
            held.users -= 1
            if held.users == 0:
                self._idle[number] = None

    def close(self) -> None:
        """Give everything back."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for number in list(self._held):
            self._close(number)

    def _close(self, number: int) -> None:
        held = self._held.pop(number)
        self._idle.pop(number, None)
        self.used_bytes -= self._sizes[number]
        if held.block.cancel():
            return

        def give_back(opened: Future[Block]) -> None:
            if not opened.cancelled() and opened.exception() is None:
                opened.result().close()

        held.block.add_done_callback(give_back)
