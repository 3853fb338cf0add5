"""LMDB files read page by page, where they lie: in a folder, inside a zip, in a bucket.

The LMDB library maps a local file from its start, so it can do only the first. Reading needs little of the
format: a B+ tree of pages, whose leaves hold keys, and values or the numbers of the pages that hold them
(liblmdb's mdb.c, data version 1, 64 bits, little-endian).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa

from pipelines.storage.ranged_reads import ByteRange

_MAGIC, _DATA_VERSION = 0xBEEFC0DE, 1
_PAGE_HEADER, _NODE_HEADER = 16, 8
_BRANCH, _LEAF, _META = 0x01, 0x02, 0x08
_BIG_VALUE, _SUB_DATABASE, _DUPLICATES = 0x01, 0x02, 0x04
_NO_PAGE = 2**64 - 1
_META_LAYOUT = struct.Struct("<IIQQ 48x I H H QQQ Q Q QQ")  # its second database is the main one
_PAGE_SIZE_AT = _PAGE_HEADER + 24  # the first database's padding holds the page size
#: No tree of LMDB's is deeper.
_MOST_LEVELS = 32


class NotLmdbError(ValueError):
    """The bytes are no LMDB file, or of a kind that cannot be read here; the text says why."""


class Entry(NamedTuple):
    """A key, and where its value lies in the file that was opened."""

    key: bytes
    span: ByteRange


class _Meta(NamedTuple):
    page_size: int
    root: int
    transaction: int


def entries(file: pa.NativeFile, base: int = 0, threads: int = 1) -> Iterator[Entry]:
    """Every entry of an LMDB's main database, in the order of keys.

    Args:
        base: where the LMDB starts in the file.
        threads: how many pages are read at once.

    Raises:
        NotLmdbError: it is none, is cut short, or has sub-databases.
    """
    try:
        yield from _entries(file, base, threads)
    except (struct.error, StopIteration, RuntimeError) as error:
        raise NotLmdbError(f"a page of its tree is malformed: the file is damaged ({error})") from error


def _entries(file: pa.NativeFile, base: int, threads: int) -> Iterator[Entry]:
    meta = _newest_meta(file, base)
    if meta.root == _NO_PAGE:
        return

    def read(number: int) -> bytes:
        page: bytes = file.read_at(meta.page_size, base + number * meta.page_size)
        if len(page) < meta.page_size:
            raise NotLmdbError(f"it ends before page {number}: the file is truncated")
        return page

    end = file.size()
    with ThreadPoolExecutor(threads) as pool:
        level = [meta.root]
        for _ in range(_MOST_LEVELS):  # All leaves are equally deep.
            pages = pool.map(read, level)
            first = next(pages)
            if _flags(first) & _LEAF:
                for page in (first, *pages):
                    yield from _leaf_entries(page, base, meta.page_size, end)
                return
            level = [child for page in (first, *pages) for child in _children(page)]
            if not level or len(level) > end // meta.page_size:
                raise NotLmdbError("its tree has more pages than the file: the file is damaged")
    raise NotLmdbError("its tree is too deep: the file is damaged")


def _newest_meta(file: pa.NativeFile, base: int) -> _Meta:
    first = file.read_at(4096, base)
    if len(first) < 4096:
        raise NotLmdbError("it is shorter than a page")
    (page_size,) = struct.unpack_from("<I", first, _PAGE_SIZE_AT)
    metas = [_meta(first)]
    if 512 <= page_size <= 65536:
        second = file.read_at(4096, base + page_size)
        if len(second) >= _PAGE_HEADER + _META_LAYOUT.size:
            metas.append(_meta(second))
    found = [meta for meta in metas if meta is not None]
    if not found:
        raise NotLmdbError("it does not start with an LMDB header")
    return max(found, key=lambda meta: meta.transaction)._replace(page_size=page_size)


def _meta(page: bytes) -> _Meta | None:
    """The meta page's content, None if it is none."""
    magic, version, _, _, _, _, _, _, _, _, _, root, _, transaction = _META_LAYOUT.unpack_from(page, _PAGE_HEADER)
    if magic != _MAGIC or not _flags(page) & _META:
        return None
    if version != _DATA_VERSION:
        raise NotLmdbError(f"its data version is {version}; only {_DATA_VERSION} is supported")
    return _Meta(0, root, transaction)


def _flags(page: bytes) -> int:
    flags: int = struct.unpack_from("<H", page, 10)[0]
    return flags


def _nodes(page: bytes) -> tuple[int, ...]:
    """Where a page's nodes start."""
    (lower,) = struct.unpack_from("<H", page, 12)
    if not _PAGE_HEADER <= lower <= len(page):
        raise NotLmdbError("a page header is malformed: the file is damaged")
    return struct.unpack_from(f"<{(lower - _PAGE_HEADER) // 2}H", page, _PAGE_HEADER)


def _children(page: bytes) -> Iterator[int]:
    if not _flags(page) & _BRANCH:
        raise NotLmdbError("a page of its tree has the wrong type: the file is damaged")
    for at in _nodes(page):
        low, middle, high = struct.unpack_from("<HHH", page, at)
        yield low | middle << 16 | high << 32


def _leaf_entries(page: bytes, base: int, page_size: int, end: int) -> Iterator[Entry]:
    if not _flags(page) & _LEAF:
        raise NotLmdbError("a page of its tree has the wrong type: the file is damaged")
    (number,) = struct.unpack_from("<Q", page, 0)
    for at in _nodes(page):
        low, high, flags, key_size = struct.unpack_from("<HHHH", page, at)
        if flags & (_SUB_DATABASE | _DUPLICATES):
            raise NotLmdbError("it has nested databases or several values per key, which LSUN's LMDBs do not have")
        start = at + _NODE_HEADER + key_size
        offset = base + number * page_size + start
        if flags & _BIG_VALUE:
            offset = base + struct.unpack_from("<Q", page, start)[0] * page_size + _PAGE_HEADER
        size = low | high << 16
        if offset + size > end:
            raise NotLmdbError("it ends before its last values: the file is truncated")
        yield Entry(page[at + _NODE_HEADER : start], ByteRange(offset, size))
