"""Blocks from afar, kept on the local disk: shared by the replicas of a host, and there after a restart."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipelines.components import ConfigError
from pipelines.storage.location import PARTIAL

#: Epochs come round: what was used last is what is needed last. So entries in use stay, instead of making room
#: for others; what nobody has used for so long belongs to a run that has ended.
IDLE_SECONDS = 86400.0
#: How long to wait before looking for idle entries again, if there were too few.
_LOOK_SECONDS = 600.0


class DiskCache:
    """Files by key, within a limit of bytes that holds for all processes together.

    Args:
        folder: of the cache, and of nothing else.
        limit_bytes: of all files together.
        idle_seconds: how long an entry must not have been used before it gives way to another.

    Raises:
        ConfigError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, limit_bytes: int, idle_seconds: float = IDLE_SECONDS) -> None:
        self._folder, self._limit, self._idle_seconds = folder, limit_bytes, idle_seconds
        self._next_look = 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._locked() as total:  # What a killed process has left is counted anew.
                self._write_total(total, self._measure())
        except OSError as error:
            raise ConfigError(f"loader.cache: {folder} is not writable: {error}") from error

    def get(self, key: str, into: memoryview) -> bool:
        """Read what is kept under a key; returns whether there was so much of it."""
        path = self._path(key)
        try:
            with path.open("rb", buffering=0) as file:
                received = file.readinto(into)
            os.utime(path)
        except OSError:
            return False
        return received == len(into)

    def put(self, key: str, content: memoryview) -> bool:
        """Keep something, if there is room; returns whether it is kept."""
        path = self._path(key)
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
        with self._locked() as total:
            used = self._read_total(total)
            if path.exists():
                return True
            used -= self._make_room(used + len(content) - self._limit)
            if used + len(content) <= self._limit:
                try:
                    path.parent.mkdir(exist_ok=True)
                    partial.write_bytes(content)
                    partial.replace(path)
                    used += len(content)
                except OSError:  # A full disk costs the cache, not the run.
                    partial.unlink(missing_ok=True)
            self._write_total(total, used)
        return path.exists()

    def drop(self, key: str) -> None:
        """Remove what turned out to be damaged."""
        with self._locked() as total, contextlib.suppress(FileNotFoundError):
            size = self._path(key).stat().st_size
            self._path(key).unlink()
            self._write_total(total, self._read_total(total) - size)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()

    def _measure(self) -> int:
        return sum(status.st_size for _, status in self._files())

    def _make_room(self, size: int) -> int:
        """Remove idle entries, the longest idle first, until so much is free; returns how much is."""
        now = time.time()
        if size <= 0 or now < self._next_look:  # Looking at every file takes time, and all processes wait for it.
            return 0
        freed = 0
        latest = time.time() - self._idle_seconds
        for path, status in sorted(self._files(), key=lambda item: item[1].st_mtime):
            if freed >= size or status.st_mtime > latest:
                break
            path.unlink(missing_ok=True)
            freed += status.st_size
        if freed < size:
            self._next_look = now + min(_LOOK_SECONDS, self._idle_seconds)
        return freed

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The file that holds the total, for one process and thread at a time."""
        file = os.open(self._folder / "total", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)

    @staticmethod
    def _read_total(file: int) -> int:
        return int(os.pread(file, 32, 0) or b"0")

    @staticmethod
    def _write_total(file: int, used: int) -> None:
        os.ftruncate(file, 0)
        os.pwrite(file, str(used).encode(), 0)
