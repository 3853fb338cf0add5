"""Sources: where pictures come from, one format a file."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipelines.shards import Images
from service.components import Component, ConfigError


class Sample(NamedTuple):
    """A picture, encoded or as an array; its name in the source; its label, if the source has labels."""

    key: str
    picture: bytes | Images
    label: int | None = None


class Source(Component):
    """A data set in somebody's format."""

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """Every sample, in an order that does not change.

        Raises:
            ConfigError: the source is not there, or not in its format.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A short text that changes when the source's content does, found without reading it all.

        Raises:
            ConfigError: the source is not there.
        """

    def describe(self) -> str:
        """The source in a few words, for manifests."""
        return type(self).__name__


def fingerprint_files(files: Iterable[Path]) -> str:
    """A hash of names, sizes and times of change."""
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        status = file.stat()
        digest.update(f"{file.name}/{status.st_size}/{status.st_mtime_ns}".encode())
    return digest.hexdigest()


def existing(uri: str) -> Path:
    """The local path of a source. Raises ConfigError if it is not there."""
    path = Path(uri).expanduser()
    if not path.exists():
        raise ConfigError(f"data.source.uri: {uri!r} does not exist; name your copy with data.source.uri=PATH")
    return path
