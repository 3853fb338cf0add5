"""How a retraining ends, as the exit code that says so to a CronJob, a CI job or a shell."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``python -m pipelines.retrain``."""

    NOTHING_NEW = 0  #: The recipe has been trained on this version of the data.
    FAILED = 1  #: Something broke; run again, it goes on from there.
    USER_ERROR = 2  #: A mistake in the command or the configuration.
    PROMOTED = 10  #: The new model is the champion.
    HELD = 11  #: The new model is not better; the champion stays.
    REJECTED = 12  #: The new model is not fit to be compared.
