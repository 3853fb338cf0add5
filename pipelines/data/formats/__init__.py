"""Container formats of encoded pictures, one a file: folders, zips (and zips in zips), LSUN's LMDBs.

Each lists where every picture lies, so that any part of it can be read by anybody, where it lies, through `contents`.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple

#: How a picture's bytes are to be had: it is a file, a range of one, or a member of a zip.
FILE, RANGE, STORED, DEFLATED = range(4)
#: No picture is larger; what claims to be is cut off here, and so found to be damaged.
MOST_BYTES = 1 << 28


class Entry(NamedTuple):
    """Where a picture lies.

    Attributes:
        name: in its container; unique there.
        file: below the source's location; empty if that is the file.
    """

    name: str
    file: str
    offset: int
    size: int
    packing: int


def is_hidden(name: str) -> bool:
    """Whether a file is an operating system's own, and no picture."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
