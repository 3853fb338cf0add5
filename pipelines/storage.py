"""File systems and object stores, by URI: the only code that knows there is more than the local disk."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import fs

from service.components import ConfigError


def join(uri: str, name: str) -> str:
    """The URI or path of `name` in a folder; a URI's options, behind its question mark, stay behind."""
    path, mark, options = uri.partition("?") if "://" in uri else (uri, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


@dataclass(frozen=True)
class Location:
    """A folder or file on some file system. Paths without a scheme are local."""

    filesystem: fs.FileSystem
    path: str

    @classmethod
    def of(cls, uri: str) -> Location:
        """Raises ConfigError if no file system answers to the URI's scheme."""
        if "://" not in uri:
            return cls(fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri)))
        try:
            filesystem, path = fs.FileSystem.from_uri(uri)
        except pa.ArrowInvalid as error:
            raise ConfigError(f"{uri}: no file system for this URI ({error})") from error
        return cls(filesystem, path)

    def __truediv__(self, name: str) -> Location:
        return Location(self.filesystem, f"{self.path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.path if self.is_local else f"{self.filesystem.type_name}://{self.path}"

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def exists(self) -> bool:
        found: bool = self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound
        return found

    def read(self) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        with self.filesystem.open_input_stream(self.path) as stream:
            content: bytes = stream.readall()
        return content

    def write(self, content: bytes) -> None:
        """Write the whole file, atomically: a reader sees the old content, or all of the new."""
        if not self.is_local:  # Object stores publish an object when it is complete.
            with self.filesystem.open_output_stream(self.path) as stream:
                stream.write(content)
            return
        self.filesystem.create_dir(os.path.dirname(self.path), recursive=True)
        partial = f"{self.path}.{uuid.uuid4().hex}.partial"
        with self.filesystem.open_output_stream(partial) as stream:
            stream.write(content)
        self.filesystem.move(partial, self.path)

    def buffer(self) -> pa.Buffer:
        """The file's bytes: a memory map of a local file, a copy of a remote one."""
        if self.is_local:
            return pa.memory_map(self.path).read_buffer()
        with self.filesystem.open_input_file(self.path) as file:
            return file.read_buffer()

    def delete(self) -> None:
        """Remove the folder and what is in it, if it is there."""
        if self.exists():
            self.filesystem.delete_dir(self.path)

    def copy_from(self, other: Location) -> None:
        """Copy the folder `other` here."""
        self.filesystem.create_dir(self.path, recursive=True)
        fs.copy_files(other.path, self.path, other.filesystem, self.filesystem)
