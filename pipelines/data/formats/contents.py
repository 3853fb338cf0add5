"""The bytes of pictures, read where they lie, whatever they are packed in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pyarrow as pa

from pipelines.data.formats import DEAD_LINK, FILE, MOST_BYTES, RANGE, Entry, Unusable
from pipelines.data.formats.zips import unpack
from pipelines.storage.location import Location
from pipelines.storage.ranged_reads import ByteRange, read_files, read_ranges, threads_for


def contents(root: Location, found: pa.Table) -> Iterator[bytes]:
    """The bytes of every entry of a table with `Entry`'s columns, in its order; `Unusable` where there are none.

    Raises:
        OSError: a file has gone, or cannot be read.
    """
    rows = (Entry(*row) for row in zip(*(found.column(name).to_pylist() for name in Entry._fields), strict=True))
    for (packing, name), group in itertools.groupby(rows, _read_together):
        members = list(group)
        if packing == DEAD_LINK:
            yield from (Unusable("dead link") for _ in members)
            continue
        if packing == FILE:
            yield from read_files([(root / row.file, row.size) for row in members], MOST_BYTES)
            continue
        location = root / str(name) if name else root
        with location.open() as file:
            spans = [ByteRange(row.offset, min(row.size, MOST_BYTES)) for row in members]
            for row, content in zip(members, read_ranges(file, spans, threads_for(location)), strict=True):
                yield content if row.packing == RANGE else unpack(content, row.packing, row.crc)


def _read_together(row: Entry) -> tuple[int, str]:
    """Alike for entries that are read in one go: files one by one, and what lies in the same file."""
    return (row.packing, "") if row.packing in (FILE, DEAD_LINK) else (RANGE, row.file)
