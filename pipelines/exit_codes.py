"""How commands end: the exit codes that say so to a shell, a CronJob or a CI job."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import NoReturn


class ExitCode(IntEnum):
    """Exit codes of all commands; those from 10 on are retraining's and promotion's alone."""

    DONE = 0
    NOTHING_NEW = 0  #: The recipe has been trained on this version of the data.
    FAILED = 1  #: Something broke; run again, it goes on from there.
    USER_ERROR = 2  #: A mistake in the command or the configuration.
    PROMOTED = 10  #: The new model is the champion.
    HELD = 11  #: The new model is not good enough to be champion.
    REJECTED = 12  #: The new model is not fit to be compared.
    INTERRUPTED = 130  #: Ctrl-C. A training run has kept what was done, and goes on with `resume`.
    NOBODY_READS = 141  #: The output went into a pipe that was closed, as by ``| head``.
    TERMINATED = 143  #: SIGTERM, likewise.


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a command and end the process with its exit code, without a traceback if nobody reads the output any more."""
    code: object
    try:
        try:
            code = main()
        except SystemExit as ended:  # argparse prints help and usage, and ends the process by itself.
            code = ended.code
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end.
        code = ExitCode.NOBODY_READS
    sys.exit(int(code) if isinstance(code, int) else code)
