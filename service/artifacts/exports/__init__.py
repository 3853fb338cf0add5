"""A trained generator in the forms that other software takes, each compared with the original when it is written."""

from __future__ import annotations

#: How far an exported generator's images, in [-1, 1], may be from the original's: a level of 8 bits is 78 times that.
TOLERANCE = 1e-4


class ExportError(RuntimeError):
    """A generator that cannot be exported, or an export that is not the model; its text is the one line to show."""


def check_difference(found: float, what: str) -> None:
    """Raise ExportError if images differ by more than `TOLERANCE`, or are not numbers."""
    if not found <= TOLERANCE:
        raise ExportError(
            f"the {what} makes other images than the model: they differ by {found:.2g}, and may by {TOLERANCE:g}"
        )
