"""What ends a run before its last step."""

from __future__ import annotations


class RunError(RuntimeError):
    """A run that ended before its last step; its text is the one line to show."""


def first_line(error: BaseException) -> str:
    """The first line that an error has to say, or what it is."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
