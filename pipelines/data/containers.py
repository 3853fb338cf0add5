"""Containers of encoded pictures (folders, zips, zips in zips, LMDBs): what is in them, and its bytes.

An index lists where every picture lies, so that any part of it can be read by anybody, where it lies.
"""

from __future__ import annotations

import io
import itertools
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from pipelines.components import ConfigError
from pipelines.data.lmdb_pages import NotLmdbError, entries
from pipelines.storage.location import Location
from pipelines.storage.ranged_reads import ByteRange, read_files, read_ranges, threads_for

#: How a picture's bytes are to be had: it is a file, a range of one, or a member of a zip.
FILE, RANGE, STORED, DEFLATED = range(4)
#: No picture is larger; what claims to be is cut off here, and so found to be damaged.
_MOST_BYTES = 1 << 28
_MEMBER_HEADER = struct.Struct("<4s 14x I 4x HH")
_PACKINGS = {zipfile.ZIP_STORED: STORED, zipfile.ZIP_DEFLATED: DEFLATED}


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


def in_folder(folder: Location) -> list[Entry]:
    """The files of a folder tree, less hidden ones. Raises ConfigError if there is none."""
    found = [file for file in folder.files(recursive=True) if not _is_hidden(file.name)]
    if not found:
        raise ConfigError(f"data.source.uri: {folder} does not exist or is empty; set it to your copy of the data")
    return [Entry(file.name, file.name, 0, file.size, FILE) for file in found]


def in_zip(archive: Location) -> list[Entry]:
    """The members of a zip, and of the zips stored in it.

    Raises:
        ConfigError: it is damaged, or has a compressed zip inside.
    """
    with archive.open() as file:
        return list(_members(archive, file, 0, file.size(), ""))


def in_lmdb(location: Location) -> Iterator[Entry]:
    """The values of an LMDB: a folder with ``data.mdb``, that file, or a zip that holds it uncompressed.

    Raises:
        ConfigError: there is none, or it cannot be read where it lies.
    """
    if location.is_file():
        base, name = (_stored_lmdb(location), "") if is_zip(location) else (0, "")
        file = location
    else:
        base, name, file = 0, "data.mdb", location / "data.mdb"
        if not file.is_file():
            raise ConfigError(f"data.source.uri: {file} does not exist; name the folder that holds data.mdb")
    try:
        with file.open() as opened:
            for entry in entries(opened, base, threads_for(file)):
                yield Entry(entry.key.decode("ascii", "backslashreplace"), name, *entry.span, RANGE)
    except NotLmdbError as error:
        raise ConfigError(f"data.source.uri: {file} cannot be read as an LMDB: {error}") from error


def is_zip(location: Location) -> bool:
    """Whether a file is a zip, by its content."""
    with location.open() as file:
        return bool(file.read(4) in (b"PK\x03\x04", b"PK\x05\x06"))


def contents(root: Location, found: pa.Table) -> Iterator[bytes]:
    """The bytes of every entry of a table with `Entry`'s columns, in its order.

    Raises:
        OSError: a file has gone, or cannot be read.
    """
    rows = (Entry(*row) for row in zip(*(found.column(name).to_pylist() for name in Entry._fields), strict=True))
    for (whole, name), group in itertools.groupby(
        rows, lambda row: (row.packing == FILE, row.packing != FILE and row.file)
    ):
        members = list(group)
        if whole:
            yield from read_files([(root / row.file, row.size) for row in members], _MOST_BYTES)
            continue
        location = root / str(name) if name else root
        with location.open() as file:
            spans = [ByteRange(row.offset, min(row.size, _MOST_BYTES)) for row in members]
            for row, content in zip(members, read_ranges(file, spans, threads_for(location)), strict=True):
                yield content if row.packing == RANGE else _unpack(content, row.packing)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _open_zip(archive: Location, part: io.RawIOBase) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BufferedReader(part, 1 << 20))
    except zipfile.BadZipFile as error:
        raise ConfigError(f"data.source.uri: {archive} is a damaged zip ({error}); fetch it again") from error


def _members(archive: Location, file: pa.NativeFile, start: int, size: int, prefix: str) -> Iterator[Entry]:
    with _open_zip(archive, _Part(file, start, size)) as opened:
        everything = opened.infolist()
        for info, end in zip(everything, _ends(everything, opened.start_dir), strict=True):
            if info.is_dir() or _is_hidden(info.filename):
                continue
            name = f"{prefix}{info.filename}"
            _check_readable(archive, name, info)
            if info.filename.lower().endswith(".zip"):
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ConfigError(_must_unpack(archive, info))
                inner = start + _content_offset(file, start + info.header_offset)
                yield from _members(archive, file, inner, info.file_size, f"{name}/")
            else:
                packing = _PACKINGS[info.compress_type]
                yield Entry(name, "", start + info.header_offset, end - info.header_offset, packing)


def _check_readable(archive: Location, name: str, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 0x1:
        raise ConfigError(f"data.source.uri: {name} in {archive} is encrypted; unpack it and use the folder")
    if info.compress_type not in _PACKINGS:
        raise ConfigError(
            f"data.source.uri: {name} in {archive} is compressed with method {info.compress_type}; "
            "only stored and deflated members can be read; unpack it and use the folder"
        )


def _ends(infos: Sequence[zipfile.ZipInfo], end: int) -> list[int]:
    """Where what follows each member starts: a member's own end is not known before its header is read."""
    starts = sorted({info.header_offset for info in infos} | {end})
    after = dict(itertools.pairwise(starts))
    return [after[info.header_offset] for info in infos]


def _content_offset(file: pa.NativeFile, header: int) -> int:
    """Where a member's content starts, from the start of the file."""
    _, _, name, extra = _MEMBER_HEADER.unpack(file.read_at(_MEMBER_HEADER.size, header))
    return header + _MEMBER_HEADER.size + int(name) + int(extra)


def _must_unpack(archive: Location, info: zipfile.ZipInfo) -> str:
    return (
        f"data.source.uri: {info.filename} is compressed inside {archive} and cannot be read in place; "
        f"unzip it (it needs {info.file_size / 1e9:.1f} GB of disk) and use the unzipped copy"
    )


def _stored_lmdb(archive: Location) -> int:
    """Where the LMDB starts in a zip."""
    with archive.open() as file, _open_zip(archive, _Part(file, 0, file.size())) as opened:
        found = [info for info in opened.infolist() if PurePosixPath(info.filename).name == "data.mdb"]
        if len(found) != 1:
            raise ConfigError(
                f"data.source.uri: {archive} has {len(found)} files named data.mdb; it must have exactly one"
            )
        if found[0].compress_type != zipfile.ZIP_STORED:
            raise ConfigError(_must_unpack(archive, found[0]))
        return _content_offset(file, found[0].header_offset)


def _unpack(member: bytes, packing: int) -> bytes:
    """A zip's member, with its header before it and what follows behind -> its content."""
    if len(member) < _MEMBER_HEADER.size or member[:4] != b"PK\x03\x04":
        return b""
    content = member[_content_offset(pa.BufferReader(member), 0) :]
    if packing == STORED:
        size = _MEMBER_HEADER.unpack_from(member)[1]  # 0, or all ones, where it is said elsewhere.
        return content[:size] if 0 < size < 2**32 - 1 else content
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return unpacker.decompress(content, _MOST_BYTES)
    except zlib.error:
        return b""


class _Part(io.RawIOBase):
    """A range of a file, as a file of its own."""

    def __init__(self, file: pa.NativeFile, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._file.read_at(max(0, min(len(buffer), self._size - self._at)), self._start + self._at)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
