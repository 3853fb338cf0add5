"""Many ranges of a file, read in few large pieces: how containers of pictures are read where they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from pipelines.storage.location import Location

#: Ranges are looked at in runs of at most this many, and bytes, and read in the order in which they lie in the file.
_RUN, _RUN_BYTES = 512, 1 << 26
#: Ranges with at most this much between them are read in one piece,
_GAP_BYTES = 1 << 16
#: unless it would become larger than this.
_PIECE_BYTES = 1 << 23
_THREADS = 16

_T = TypeVar("_T")


class ByteRange(NamedTuple):
    """A range of bytes."""

    offset: int
    size: int


def read_ranges(file: pa.NativeFile, spans: Iterable[ByteRange], threads: int = 1) -> Iterator[bytes]:
    """The bytes of every span, in the order given.

    Args:
        threads: how many pieces are read at once: many where every read has to travel.
    """
    with ThreadPoolExecutor(threads) as pool:
        for run in _runs(spans, lambda span: span.size):
            pieces = _pieces(run)
            contents = pool.map(lambda piece: file.read_at(piece.size, piece.offset), [piece for piece, _ in pieces])
            found: list[bytes] = [b""] * len(run)
            for (piece, members), content in zip(pieces, contents, strict=True):
                for member in members:
                    start = run[member].offset - piece.offset
                    found[member] = content[start : start + run[member].size]
            yield from found


def read_files(files: Sequence[tuple[Location, int]], most_bytes: int) -> Iterator[bytes]:
    """The content of every file (there is one at least) of such a size, in order; at most `most_bytes` of each.

    Raises:
        OSError: a file has gone, or cannot be read.
    """

    def read(item: tuple[Location, int]) -> bytes:
        location, size = item
        if size <= most_bytes:
            return location.read()
        with location.open() as file:
            beginning: bytes = file.read_at(most_bytes, 0)
            return beginning

    with ThreadPoolExecutor(threads_for(files[0][0])) as pool:
        for run in _runs(files, lambda item: item[1]):
            yield from pool.map(read, run)


def threads_for(location: Location) -> int:
    """How many reads at once pay off: several CPUs share a local disk without."""
    return 1 if location.is_local else _THREADS


def _runs(items: Iterable[_T], size: Callable[[_T], int]) -> Iterator[list[_T]]:
    run: list[_T] = []
    held = 0
    for item in items:
        if run and (len(run) == _RUN or held + size(item) > _RUN_BYTES):
            yield run
            run, held = [], 0
        run.append(item)
        held += size(item)
    if run:
        yield run


def _pieces(spans: Sequence[ByteRange]) -> list[tuple[ByteRange, list[int]]]:
    """Spans, joined to the pieces to read; with each piece, which spans lie in it."""
    pieces: list[tuple[ByteRange, list[int]]] = []
    for number in np.argsort([span.offset for span in spans], kind="stable").tolist():
        offset, size = spans[number]
        if pieces:
            (start, length), members = pieces[-1]
            end = max(start + length, offset + size)
            if offset - (start + length) <= _GAP_BYTES and end - start <= _PIECE_BYTES:
                members.append(number)
                pieces[-1] = ByteRange(start, end - start), members
                continue
        pieces.append((ByteRange(offset, size), [number]))
    return pieces
