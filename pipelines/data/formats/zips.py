"""Zips of pictures, and of zips: their members are listed and unpacked where the zip lies."""

from __future__ import annotations

import io
import itertools
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import pyarrow as pa

from pipelines.components import ConfigError
from pipelines.data.formats import DEFLATED, MOST_BYTES, STORED, Entry, Unusable, is_hidden
from pipelines.storage.location import Location

_MEMBER_HEADER = struct.Struct("<4s 14x I 4x HH")
_PACKINGS = {zipfile.ZIP_STORED: STORED, zipfile.ZIP_DEFLATED: DEFLATED}


def in_zip(archive: Location) -> list[Entry]:
    """The members of a zip, and of the zips stored in it.

    Raises:
        ConfigError: it is damaged, or has a compressed zip inside.
    """
    with archive.open() as file:
        return list(_members(archive, file, 0, file.size(), ""))


def is_zip(location: Location) -> bool:
    """Whether a file is a zip, by its content."""
    with location.open() as file:
        return bool(file.read(4) in (b"PK\x03\x04", b"PK\x05\x06"))


def stored_member(archive: Location, name: str) -> int:
    """Where the content of the one member of that name starts, in whichever folder of the zip it is.

    Raises:
        ConfigError: there is not exactly one, or it is compressed.
    """
    with archive.open() as file, _open_zip(archive, _Part(file, 0, file.size())) as opened:
        found = [info for info in opened.infolist() if PurePosixPath(info.filename).name == name]
        if len(found) != 1:
            raise ConfigError(
                f"data.source.uri: {archive} has {len(found)} files named {name}; it must have exactly one"
            )
        if found[0].compress_type != zipfile.ZIP_STORED:
            raise ConfigError(_must_unpack(archive, found[0]))
        return _content_offset(file, found[0].header_offset)


def unpack(member: bytes, packing: int, crc: int) -> bytes:
    """A zip's member, with its header before it and what follows behind -> its content; `Unusable` if it is damaged."""
    if len(member) < _MEMBER_HEADER.size or member[:4] != b"PK\x03\x04":
        return Unusable("damaged")
    content = member[_content_offset(pa.BufferReader(member), 0) :]
    try:
        found = _stored(member, content, crc) if packing == STORED else _inflated(content)
    except zlib.error:
        return Unusable("damaged")
    return found if zlib.crc32(found) == crc else Unusable("damaged")


def _stored(member: bytes, content: bytes, crc: int) -> bytes:
    size = _MEMBER_HEADER.unpack_from(member)[1]
    if 0 < size < 2**32 - 1:
        return content[:size]
    # 0, or all ones: the size is said elsewhere, which may be behind the content, in one of these lengths.
    ends = (content[: len(content) - behind] for behind in (0, 12, 16, 20, 24))
    return next((whole for whole in ends if zlib.crc32(whole) == crc), content)


def _inflated(content: bytes) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, MOST_BYTES)


def _open_zip(archive: Location, part: io.RawIOBase) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BufferedReader(part, 1 << 20))
    except zipfile.BadZipFile as error:
        raise ConfigError(f"data.source.uri: {archive} is a damaged zip ({error}); fetch it again") from error


def _members(archive: Location, file: pa.NativeFile, start: int, size: int, prefix: str) -> Iterator[Entry]:
    with _open_zip(archive, _Part(file, start, size)) as opened:
        everything = opened.infolist()
        for info, end in zip(everything, _ends(everything, opened.start_dir), strict=True):
            if info.is_dir() or is_hidden(info.filename):
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
                yield Entry(name, "", start + info.header_offset, end - info.header_offset, packing, info.CRC)


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
