"""Text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

WIDTH = 79
_COLUMN = 34


def entry(name: str, text: str, column: int = _COLUMN) -> str:
    """A name and what it is, side by side where the name leaves room; the text is wrapped at its column."""
    first = f"  {name}"
    if not text:
        return first
    lines = textwrap.wrap(text, WIDTH - column)
    if len(first) + 2 > column:
        return "\n".join([first, *(" " * column + line for line in lines)])
    return "\n".join([first.ljust(column) + lines[0], *(" " * column + line for line in lines[1:])])


def paragraph(words: Iterable[str], indent: int) -> str:
    """Words, none of which is broken, in lines of equal indent."""
    return textwrap.fill(
        " ".join(words), WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
