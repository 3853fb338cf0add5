"""Container formats of encoded pictures, one a file: folders, zips (and zips in zips), LSUN's LMDBs.

Each lists where every picture lies, so that any part of it can be read by anybody, where it lies, through `contents`.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple, Self

#: How a picture's bytes are to be had: it is a file, a range of one, a member of a zip, or a link to nothing.
FILE, RANGE, STORED, DEFLATED, DEAD_LINK = range(5)
#: No picture is larger; what claims to be is cut off here, and so found to be damaged.
MOST_BYTES = 1 << 28


class Entry(NamedTuple):
    """Where a picture lies.

    Attributes:
        name: in its container; unique there.
        file: below the source's location; empty if that is the file.
        crc: the CRC-32 of its bytes, if it is a zip's member.
    """

    name: str
    file: str
    offset: int
    size: int
    packing: int
    crc: int = 0


class Unusable(bytes):
    """Stands for the bytes of a picture that cannot be had, and holds none. `kind` is what it is counted as."""

    kind: str

    def __new__(cls, kind: str) -> Self:
        made = super().__new__(cls)
        made.kind = kind
        return made


def is_hidden(name: str) -> bool:
    """Whether a file is an operating system's own, and no picture."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
