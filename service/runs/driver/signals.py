"""Ctrl-C and SIGTERM while a run is at work: the first asks it to leave, the next one ends it at once."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipelines.exit_codes import ExitCode

_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class Interrupted(KeyboardInterrupt):
    """A run that was told to end; its text is what to do next, in one line.

    Attributes:
        code: how the command is to end.
    """

    def __init__(self, text: str = "", code: ExitCode = ExitCode.INTERRUPTED) -> None:
        super().__init__(text)
        self.code = code


class Signals:
    """What has arrived.

    Attributes:
        patient: whether the first signal is noted instead of ending what is being done.
        caught: how the command is to end, if a signal has been noted.
    """

    def __init__(self) -> None:
        self.patient = False
        self.caught: ExitCode | None = None

    def install(self) -> None:
        """Hear signals. Only the main thread can; without it Python's own handler stays."""
        if threading.current_thread() is threading.main_thread():
            for number in _CODES:
                signal.signal(number, self._hear)

    def abort(self) -> None:
        """End what the main thread does, at once, from another thread."""
        self.patient = False
        _thread.interrupt_main()

    def _hear(self, number: int, _: FrameType | None) -> None:
        code = _CODES[signal.Signals(number)]
        if self.patient and self.caught is None:
            self.caught = code
            return
        raise Interrupted(code=self.caught or code)


@contextmanager
def heard() -> Iterator[Signals]:
    """Within, signals are heard."""
    signals = Signals()
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _CODES} if main else {}
    signals.install()
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def kept() -> Iterator[None]:
    """Keep a handler of SIGTERM while Ray connects, which puts its own in the place.

    Below Python Ray has one more. It ends the process three seconds after SIGTERM, whatever is being put in order then.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # Ray's answer to SIGTERM.
        signal.alarm(0)
        if callable(before):
            before(signal.SIGTERM, None)
        raise
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
