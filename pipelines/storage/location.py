"""File systems and object stores, by URI: only this and `object_store` know that there is more than the local disk."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import pyarrow as pa
from pyarrow import fs

from pipelines.components import ConfigError
from pipelines.storage import object_store
from pipelines.storage.local_tree import files_below

#: What os.link raises where a file system has none: FAT, many network shares and object stores that are mounted.
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
#: How the names of files end that are not complete.
PARTIAL = ".partial"


def join(uri: str, name: str) -> str:
    """The URI or path of `name` in a folder; a URI's options, behind its question mark, stay behind."""
    path, mark, options = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def check_uri(key: str, uri: str) -> None:
    """Raise ConfigError, naming the option, if no file system answers to a URI; nothing is connected to."""
    object_store.refuse_credentials(uri)
    scheme, found, rest = uri.partition("://")
    if not found:
        return
    if scheme == "s3":
        if not rest.partition("?")[0].strip("/"):
            raise ConfigError(f"{key}: {uri} names no bucket; write s3://BUCKET/FOLDER")
        return
    try:
        _file_system(uri)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error


def _file_system(uri: str) -> tuple[fs.FileSystem, str]:
    """What pyarrow knows by a URI's scheme, and the path there. Raises ConfigError."""
    try:
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{uri} is on no known file system ({reason}); give a path or s3://") from error
    return found


class Found(NamedTuple):
    """A file in a folder: its path below it, its size in bytes, when it changed (0 where that is not known)."""

    name: str
    size: int
    changed: int


@dataclass(frozen=True)
class Location:
    """A folder or file on some file system. Paths without a scheme are local."""

    filesystem: fs.FileSystem
    path: str
    uri: str = field(default="", compare=False)
    store: object_store.Store | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, uri: str) -> Location:
        """Raises ConfigError if no file system answers to the URI's scheme, or the URI holds credentials."""
        uri = uri.removeprefix("file://")
        if "://" not in uri:
            path = os.path.abspath(os.path.expanduser(uri))
            return cls(fs.LocalFileSystem(), path, path)
        if uri.startswith("s3://"):
            store = object_store.Store(uri)
            return cls(store.filesystem(), store.path, uri, store)
        return cls(*_file_system(uri), uri)

    def __truediv__(self, name: str) -> Location:
        return Location(self.filesystem, f"{self.path.rstrip('/')}/{name}", join(self.uri, name), self.store)

    def __str__(self) -> str:
        return self.path if self.is_local else self.uri.partition("?")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def exists(self) -> bool:
        found: bool = self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound
        return found

    def is_file(self) -> bool:
        found: bool = self.filesystem.get_file_info(self.path).type == fs.FileType.File
        return found

    def size(self) -> int | None:
        """Of a file, in bytes; None if it is not there."""
        info = self.filesystem.get_file_info(self.path)
        return info.size if info.type == fs.FileType.File else None

    def files(self, recursive: bool = False) -> list[Found]:
        """The files in a folder, by name; none if it is not there.

        Args:
            recursive: those of the folders in it too, of each of them once, though links may lead to it again.
        """
        if recursive and self.is_local:
            return self.tree()[0]
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        above = len(self.path.rstrip("/")) + 1
        return sorted(_found(info, above) for info in _files(self.filesystem.get_file_info(selector)))

    def tree(self) -> tuple[list[Found], list[str]]:
        """The files in a folder and in the folders in it, and the links to nothing among them, by name."""
        if not self.is_local:
            return self.files(recursive=True), []
        below = sorted(files_below(self.path), key=itemgetter(0))
        found = [Found(name, file.st_size, file.st_mtime_ns) for name, file in below if file is not None]
        return found, [name for name, file in below if file is None]

    def folders(self) -> list[str]:
        """The names of the folders in a folder; none if it is not there."""
        infos = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)

    def describe(self) -> Found:
        """This file. Raises FileNotFoundError."""
        info = self.filesystem.get_file_info(self.path)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(str(self))
        return _found(info, len(self.path) - len(self.name))

    def read(self) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        with self.stream() as stream:
            content: bytes = stream.readall()
        return content

    def stream(self) -> pa.NativeFile:
        """The file, to be read from its start. Raises FileNotFoundError."""
        return self.filesystem.open_input_stream(self.path, compression=None)  # Else .gz files are unpacked.

    def open(self) -> pa.NativeFile:
        """The file, to be read at any place, by several threads. Raises FileNotFoundError."""
        return self.filesystem.open_input_file(self.path)

    def write(self, content: bytes | memoryview) -> None:
        """Write the whole file, atomically: a reader sees the old content, or all of the new."""
        if self.store is not None:
            self.store.put(self.path, content)
            return
        if not self.is_local:  # Object stores publish an object when it is complete.
            with self.filesystem.open_output_stream(self.path, compression=None) as stream:
                stream.write(content)
            return
        partial = self._write_partial(content)
        self.filesystem.move(partial, self.path)

    def create(self, content: bytes) -> bool:
        """Write the file unless it is there, atomically where that can be done; returns whether it was written.

        It can be done on local disks and on S3. Elsewhere two writers at the same moment both believe they won. On a
        disk without hard links one writer wins too, but others can see the file empty for a moment, and so it stays if
        the writer dies in that.

        Raises:
            ConfigError: the object store has no conditional puts.
            OSError: the storage refuses.
        """
        if self.is_local:
            partial = self._write_partial(content)
            try:
                os.link(partial, self.path)  # Unlike a move, this fails where the name is taken.
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                return _create_exclusively(self.path, content)
            finally:
                os.unlink(partial)
            return True
        if self.store is not None:
            return self.store.put_if_absent(self.path, content)
        if self.exists():
            return False
        self.write(content)
        return True

    def delete(self) -> None:
        """Remove the folder and what is in it, or the file, if it is there."""
        if self.store is not None:
            self.store.delete(self.path)
        elif self.is_file():
            self.filesystem.delete_file(self.path)
        elif self.exists():
            self.filesystem.delete_dir(self.path)

    def copy_from(self, other: Location, last: str | None = None) -> None:
        """Copy the folder `other` here.

        Args:
            last: a file that appears, whole, when all others are there; without it any order may be taken.
        """
        if self.store is not None or last is not None:
            for file in sorted(other.files(recursive=True), key=lambda file: file.name == last):
                if self.store is not None or file.name == last:
                    (self / file.name).write((other / file.name).read())
                else:
                    (self / file.name)._copy_file(other / file.name)
            return
        self.filesystem.create_dir(self.path, recursive=True)
        fs.copy_files(other.path, self.path, other.filesystem, self.filesystem)

    def _copy_file(self, other: Location) -> None:
        self.filesystem.create_dir(self.path.rpartition("/")[0], recursive=True)
        fs.copy_files(other.path, self.path, other.filesystem, self.filesystem)

    def _write_partial(self, content: bytes | memoryview) -> str:
        self.filesystem.create_dir(os.path.dirname(self.path), recursive=True)
        partial = f"{self.path}.{uuid.uuid4().hex}{PARTIAL}"
        with self.filesystem.open_output_stream(partial, compression=None) as stream:
            stream.write(content)
        return partial


def _create_exclusively(path: str, content: bytes) -> bool:
    """Write a file unless it is there. The name is taken first, and the content comes then."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
    except BaseException:
        os.unlink(path)
        raise
    return True


def _files(infos: list[fs.FileInfo]) -> Iterator[fs.FileInfo]:
    return (info for info in infos if info.type == fs.FileType.File)


def _found(info: fs.FileInfo, above: int) -> Found:
    return Found(info.path[above:], info.size, info.mtime_ns or 0)
