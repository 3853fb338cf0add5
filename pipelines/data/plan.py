"""What an ingest will do: pure decisions, from a source's index to the work of every task."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data.attributes import COLUMN, attribute_names, lists_of
from pipelines.data.images import Transform
from pipelines.data.shard_writer import EXAMPLES, Skipped, Work
from pipelines.data.shards import Stored
from pipelines.data.sources import Source
from pipelines.storage.location import Location

LANES = 64
#: A block is what is read at once: large enough for an object store, so small that many fit into memory,
BLOCK_BYTES = 1 << 20
#: and so small that a lane has at least this many of them.
LANE_BLOCKS = 4
SHARD_BYTES = 1 << 26
SHARD_ROWS = 8192
#: An ingest that must skip more than this share of its samples is not the data the user meant.
SKIP_LIMIT = 0.01


@dataclass(frozen=True)
class Options:
    """How to ingest.

    Attributes:
        stored: pixels at the transform's size, or the source's own bytes, to be decoded by whoever reads them.
        append: whether to add to the data set that is there.
        skip_limit: the share of samples that may be skipped.
        shard_rows: the most samples of a shard [default: 64 MiB of them, but no more than 8,192].
        lanes: streams that samples are dealt into, so the most replicas there may be; one that appends keeps those
            that are there.
    """

    stored: Stored = "decoded"
    append: bool = False
    skip_limit: float = SKIP_LIMIT
    shard_rows: int | None = None
    lanes: int = LANES


@dataclass(frozen=True)
class Plan:
    """One ingest: what it reads, where to, and how.

    Attributes:
        fingerprint: the source's, as it was found.
        version: of the data set, that it makes.
        shown: whether pictures are taken as a viewer shows them, and not as they lie.
    """

    source: Source
    transform: Transform
    target: Location
    options: Options
    fingerprint: str
    version: int
    shown: bool = True

    @cached_property
    def identity(self) -> str:
        """Names what is read, as it was found, and everything that the result depends on."""
        # Ingests of the time when pictures were taken as they lie had no such option.
        unnamed = set[str]() if self.shown else {"background"}
        source = self.source.model_dump()
        if source.get("attributes", "") is None:  # There was no such option then, either.
            del source["attributes"]
        described = [
            type(self.source).__name__,
            source,
            self.fingerprint,
            self.transform.model_dump(exclude=unnamed),
            self.options.stored,
            self.options.shard_rows,
            *([self.options.lanes] if self.options.lanes != LANES else []),  # There was no choice once.
        ]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def notes(self) -> str:
        """The folder of notes on shards that are done."""
        return f"ingest-{self.version:05}-{self.identity}"

    @property
    def claim(self) -> Location:
        """The file that says which ingest makes this version."""
        return self.target / f"ingest-{self.version:05}.json"

    def block_rows(self, index: pa.Table) -> int:
        """How many rows to read at once."""
        return max(1, min(BLOCK_BYTES // self._row_bytes(index), len(index) // (self.options.lanes * LANE_BLOCKS)))

    def works(self, index: pa.Table, block_rows: int) -> Iterator[Work]:
        """The index, dealt into shards."""
        rows = self.options.shard_rows or min(SHARD_ROWS, max(1, SHARD_BYTES // self._row_bytes(index)))
        for number, start in enumerate(range(0, len(index), rows)):
            name = f"{self.version:05}-{number:05}"
            yield Work(
                source=self.source,
                part=index.slice(start, rows),
                transform=self.transform,
                stored=self.options.stored,
                block_rows=block_rows,
                target=self.target.uri,
                shard=f"shard-{name}.arrow",
                note=f"{self.notes}/{name}.json",
                shown=self.shown,
            )

    def _row_bytes(self, index: pa.Table) -> int:
        if self.options.stored == "encoded" and "size" in index.column_names and len(index):
            size = int(pc.mean(index.column("size")).as_py())
        else:
            size = int(np.prod(self.transform.shape))
        return max(1, size * len(self.source.columns))


def without_duplicates(index: pa.Table, known: pa.ChunkedArray) -> tuple[pa.Table, Skipped]:
    """The index without samples that are `known` already, and without those whose key came before; and the latter."""
    index = index.filter(pc.invert(pc.is_in(index.column("key"), known))) if len(known) else index
    codes = np.asarray(index.column("key").combine_chunks().dictionary_encode().indices)
    _, first = np.unique(codes, return_index=True)
    fresh = np.zeros(len(codes), bool)
    fresh[first] = True
    twice = index.column("key").filter(pa.array(~fresh))
    examples = tuple(twice.slice(0, EXAMPLES).to_pylist())
    return index.filter(pa.array(fresh)), Skipped(count=len(twice), examples=examples)


def with_labels(index: pa.Table, known: tuple[str, ...]) -> tuple[pa.Table, tuple[str, ...]]:
    """Number the classes: those that are known stay as they are, new ones follow by name, 2 before 10.

    Attributes stay in their order.
    """
    if names := attribute_names(index):
        return index.append_column("label", lists_of(index.column(COLUMN))).drop_columns(COLUMN), names
    if "class" not in index.column_names:
        return index, known
    names = index.column("class")
    classes = (*known, *sorted(set(pc.unique(names).drop_null().to_pylist()) - set(known), key=_natural))
    labels = pc.index_in(names, pa.array(classes, pa.string())).cast(pa.int64())
    return index.drop_columns("class").append_column("label", labels), classes


#: More than any number in a name: letters follow digits, as elsewhere.
_AFTER_NUMBERS = 1 << 62


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """A key to sort names by, in which numbers count as such."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", name)
    return (*((int(digits), "") if digits else (_AFTER_NUMBERS, text) for digits, text in parts), (0, name))
