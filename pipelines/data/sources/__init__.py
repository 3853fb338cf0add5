"""Sources: what data sets come as (digits, CIFAR, a folder of pictures, LSUN), one a file."""

from __future__ import annotations

import hashlib
import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import AfterValidator

from pipelines.components import Component, ConfigError, name_of
from pipelines.data.attributes import COLUMN, struct_of
from pipelines.data.formats import Entry
from pipelines.data.formats.contents import contents
from pipelines.data.shards import Images, Label
from pipelines.storage.location import Found, Location
from pipelines.storage.object_store import refuse_credentials

_TABULATED = 1 << 16

#: A path or URI; a path is absolute, so that it means the same to every process.
Uri = Annotated[str, AfterValidator(lambda uri: _absolute(uri))]


class Sample(NamedTuple):
    """One sample: its pictures, encoded or as arrays, one for each of the source's columns; and its label or labels."""

    key: str
    pictures: tuple[bytes | Images, ...]
    label: Label | None = None


@dataclass(frozen=True)
class Survey:
    """What a source holds, as it was when it was looked at: its fingerprint and, if it is asked for, its index."""

    fingerprint: str
    index: Callable[[], pa.Table]


class Source(Component):
    """A data set in somebody's format.

    What it holds is found first, and cheaply, so that any part of it can be read by anybody afterwards.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """What the pictures of a sample are."""
        return ("image",)

    @property
    def choice(self) -> str:
        """What is taken of the content, where options say so and the fingerprint does not; empty if it is all."""
        return ""

    @property
    def side_by_side(self) -> bool:
        """Whether the pictures of a sample come as one, to be cut in halves."""
        return False

    @abstractmethod
    def index(self) -> pa.Table:
        """Every sample, in an order that does not change: its ``key``, and what `read` needs.

        A column ``class`` holds the names of classes, which become labels; a column ``attributes``, a struct, 0 or 1
        for each of several labels, by their names.

        Raises:
            ConfigError: the source is not there, or not in its format.
        """

    @abstractmethod
    def read(self, part: pa.Table) -> Iterator[Sample]:
        """The samples of a part of the index, in its order.

        Raises:
            OSError: what the index found has gone.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A short text that changes when the source's content does, found without reading it all.

        Raises:
            ConfigError: the source is not there.
        """

    def survey(self) -> Survey:
        """Fingerprint and index, for who wants both."""
        return Survey(self.fingerprint(), self.index)

    @abstractmethod
    def describe(self) -> str:
        """The source in a few words, for manifests."""


class SurveyedSource(Source):
    """A source that takes long to look at, such as a million files: one look gives both index and fingerprint."""

    @abstractmethod
    def survey(self) -> Survey:
        """Raises ConfigError as `index` and `fingerprint` do."""

    def index(self) -> pa.Table:
        return self.survey().index()

    def fingerprint(self) -> str:
        return self.survey().fingerprint


class ArraySource(Source):
    """A source that is small, and whose pictures are arrays."""

    @abstractmethod
    def arrays(self) -> tuple[Images, NDArray[np.integer]]:
        """Pictures (N, H, W) or (N, H, W, C), uint8, and their labels (N,), or (N, A), of 0 and 1."""

    @abstractmethod
    def key(self, row: int) -> str:
        """The name of a picture."""

    def index(self) -> pa.Table:
        pictures, labels = self._checked()
        rows = np.arange(len(pictures))
        table = pa.table({"key": pa.array([self.key(row) for row in rows.tolist()], pa.string()), "row": rows})
        if labels.ndim == 1:
            return table
        return table.append_column(COLUMN, struct_of(list(map(str, range(labels.shape[1]))), labels.tolist()))

    def read(self, part: pa.Table) -> Iterator[Sample]:
        pictures, labels = self._checked()
        for key, row in zip(part.column("key").to_pylist(), part.column("row").to_pylist(), strict=True):
            yield Sample(key, (pictures[row],), labels[row].tolist())

    def _checked(self) -> tuple[Images, NDArray[np.integer]]:
        """The arrays. Raises ConfigError if they are not uint8: floats of 0 to 1 would all become black."""
        pictures, labels = self.arrays()
        if pictures.dtype != np.uint8:
            raise ConfigError(
                f"data.source: the pictures of {name_of(self)} are {pictures.dtype}, and must be uint8, 0 to 255; "
                "scale, round and convert them in its `arrays`"
            )
        return pictures, labels


def _absolute(uri: str) -> str:
    if "://" not in uri:
        return str(Path(uri).expanduser().absolute())
    refuse_credentials(uri)
    return uri


def tabulate(entries: Iterable[Entry]) -> pa.Table:
    """Where pictures lie, with their names as keys. Raises ConfigError if there are none."""
    remaining = iter(entries)
    parts = []
    while some := list(itertools.islice(remaining, _TABULATED)):  # Millions of tuples at once are gigabytes.
        parts.append(pa.table(dict(zip(Entry._fields, zip(*some, strict=True), strict=True))))
    if not parts:
        raise ConfigError("data.source: holds no pictures")
    table = pa.concat_tables(parts)
    return table.append_column("key", table.column("name"))


def samples_at(root: Location, part: pa.Table) -> Iterator[Sample]:
    """The samples of a part of a table that `tabulate` made; labels are its column ``label``, if it has one."""
    labels = part.column("label").to_pylist() if "label" in part.column_names else [None] * len(part)
    for key, content, label in zip(part.column("key").to_pylist(), contents(root, part), labels, strict=True):
        yield Sample(key, (content,), label)


def fingerprint_files(files: Iterable[Found]) -> str:
    """A hash of names, sizes and times of change."""
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(f"{file.name}/{file.size}/{file.changed}".encode())
    return digest.hexdigest()


def existing(uri: str) -> Location:
    """Where a source lies. Raises ConfigError if it is not there."""
    location = Location.of(uri)
    try:
        there = location.exists()
    except OSError as error:
        raise ConfigError(f"data.source.uri: {location} cannot be reached: {error}") from error
    if not there:
        raise ConfigError(f"data.source.uri: {uri!r} does not exist; name your copy with data.source.uri=PATH")
    return location


def files_of(location: Location) -> list[Found]:
    """A file, or the files of a folder tree."""
    return [location.describe()] if location.is_file() else location.files(recursive=True)
