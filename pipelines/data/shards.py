"""Shards and their manifest: the one contract between writing and reading data.

A shard is an Arrow IPC file. Each of its record batches is a block, the least that is read at once: a block
is one range of bytes, which the manifest gives together with its checksum, so that any block can be read and
checked without reading what is around it. A manifest is never changed: appending writes the next version,
which lists the old shards too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, computed_field

from pipelines.storage.location import Location
from pipelines.storage.ranged_reads import threads_for

Images = NDArray[np.uint8]
Stored = Literal["decoded", "encoded"]
#: What a manifest may say of a transform's option.
Described = str | int | tuple[int, int]
#: Of a sample: a number, or several: 0 or 1 for each.
Label = int | Sequence[int]
#: Stands for the label of what has none.
NO_LABEL = -1
_MANIFEST = re.compile(r"manifest-(\d{5})\.json")


class DamagedShardError(ValueError):
    """A shard that is missing, or not what the manifest says; its text is the one line to show."""


class Shard(BaseModel):
    """One file of a data set.

    Attributes:
        offsets: where each block starts in the file, and where the last one ends.
        checks: each block's XXH3 (64 bits, hexadecimal).
    """

    model_config = ConfigDict(frozen=True)

    name: str
    rows: int
    bytes: int
    sha256: str
    offsets: tuple[int, ...]
    checks: tuple[str, ...]


class Labels(BaseModel):
    """How many rows have a label, and the highest number in them."""

    model_config = ConfigDict(frozen=True)

    rows: int = 0
    highest: int = NO_LABEL

    def plus(self, other: Labels) -> Labels:
        return Labels(rows=self.rows + other.rows, highest=max(self.highest, other.highest))


class Manifest(BaseModel):
    """What a data set holds, and how it came to be.

    Attributes:
        version: 1, and one more for every batch of images that was appended.
        sources: what each version added.
        plan: names the ingest that made this version, so that the same ingest finds its work done.
        stored: pixels at the target size, or the source's own bytes.
        shape: of decoded images, (height, width, channels).
        columns: of pictures: ``image``, and ``paired`` where the source has pairs.
        classes: what the labels stand for, where the source says so.
        several: whether a row has several labels: 0 or 1 for each of the classes, its attributes.
        labels: how many there are; None in data sets of a time before they were counted, see `count_labels`.
        lanes: how many streams the rows are dealt into; see `pipelines.loading.order`.
        block_rows: rows of every block but a shard's last.
        skipped, converted: how many samples, by kind, are not here, and are here otherwise than their files hold them.
        shown: whether pictures are as a viewer shows them (`pipelines.data.shown`); in data sets of a time before that
            they are as they lie.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[2] = 2
    version: int = 1
    sources: tuple[str, ...]
    plan: str
    stored: Stored = "decoded"
    transform: dict[str, Described] | None
    shape: tuple[int, int, int] | None
    columns: tuple[str, ...] = ("image",)
    classes: tuple[str, ...] = ()
    several: bool = False
    labels: Labels | None = None
    lanes: int
    block_rows: int
    skipped: dict[str, int]
    converted: dict[str, int]
    shown: bool = False
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def name(self) -> str:
        return manifest_name(self.version)

    @property
    def arrow(self) -> pa.Schema:
        return schema(self.columns, self.shape, len(self.classes) if self.several else None)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fields(self) -> dict[str, str]:
        """The shards' Arrow schema, for a person."""
        tensor = f"uint8 {'x'.join(map(str, self.shape))}" if self.shape else "binary"
        return {field.name: tensor if field.name in self.columns else str(field.type) for field in self.arrow}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def hash(self) -> str:
        """Names the data set's version: it follows the order and content of the rows, not where they lie."""
        decoding = "/shown" if self.shown and self.shape is None else ""  # Else the rows are what has been decoded.
        digest = hashlib.sha256(f"{self.lanes}/{self.block_rows}/{self.shape}/{self.columns}{decoding}".encode())
        for shard in self.shards:
            digest.update(f"{shard.rows}/{shard.sha256}".encode())
        return digest.hexdigest()[:16]


def manifest_name(version: int) -> str:
    return f"manifest-{version:05}.json"


def versions(folder: Location) -> list[int]:
    """The complete versions of a data set, oldest first; none if there is no data set."""
    return sorted(int(match[1]) for file in folder.files() if (match := _MANIFEST.fullmatch(file.name)))


def read_manifest(folder: Location, version: int | None = None) -> Manifest:
    """A version of a data set, or its latest.

    Raises:
        FileNotFoundError: `folder` holds no complete data set, or not that version.
        DamagedShardError: the manifest cannot be read, or is of another format.
    """
    if version is None:
        known = versions(folder)
        if not known:
            raise FileNotFoundError(f"{folder} holds no data set (no manifest-*.json)")
        version = known[-1]
    file = folder / manifest_name(version)
    try:
        return Manifest.model_validate_json(file.read())
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no version {version} (no {file.name})") from None
    except ValueError as error:
        raise DamagedShardError(
            f"{file} is not a manifest that this version can read (format 2): ingest again"
        ) from error


def read_keys(folder: Location, manifest: Manifest | None) -> pa.ChunkedArray:
    """The source keys of all rows, and nothing else of them; of no data set, none."""
    return pa.chunked_array([], pa.string()) if manifest is None else _read_column(folder, manifest, "key")


def count_labels(folder: Location, manifest: Manifest) -> Labels:
    """What the manifest says of labels; where it says nothing, they are read, and nothing else of the rows.

    Raises:
        DamagedShardError: a shard is missing, or cannot be read.
    """
    if manifest.labels is not None:
        return manifest.labels
    found = _read_column(folder, manifest, "label")
    rows = len(found) - found.null_count
    return Labels(rows=rows, highest=pc.max(found).as_py()) if rows else Labels()


def _read_column(folder: Location, manifest: Manifest, name: str) -> pa.ChunkedArray:
    place = manifest.arrow.get_field_index(name)
    options = pa.ipc.IpcReadOptions(included_fields=[place])

    def read(shard: Shard) -> list[pa.Array]:
        try:
            with (folder / shard.name).open() as file:
                chunks: list[pa.Array] = pa.ipc.open_file(file, options=options).read_all().column(name).chunks
                return chunks
        except (FileNotFoundError, pa.ArrowException) as error:
            raise DamagedShardError(f"shard {folder / shard.name} is damaged: {error}") from error

    with ThreadPoolExecutor(threads_for(folder)) as threads:
        chunks = [chunk for chunks in threads.map(read, manifest.shards) for chunk in chunks]
    return pa.chunked_array(chunks, manifest.arrow.field(place).type)


def schema(columns: Sequence[str], shape: tuple[int, int, int] | None, several: int | None = None) -> pa.Schema:
    """The columns of every shard.

    Args:
        shape: of decoded pictures; None if they are stored encoded.
        several: how many labels a row has; None if it has one.
    """
    label = pa.int64() if several is None else pa.list_(pa.uint8(), several)
    picture = pa.binary() if shape is None else pa.fixed_shape_tensor(pa.uint8(), shape)
    pictures = [pa.field(name, picture) for name in columns]
    return pa.schema([*pictures, pa.field("label", label), pa.field("key", pa.string())])


class Encoded(NamedTuple):
    """The bytes of a shard, and where and what its blocks are."""

    content: pa.Buffer
    offsets: tuple[int, ...]
    checks: tuple[str, ...]


def encode(
    pictures: Mapping[str, Sequence[Images] | Sequence[bytes]],
    labels: Sequence[Label | None],
    keys: Sequence[str],
    block_rows: int,
) -> Encoded:
    """Pictures (by column), labels and keys, all of the same length, -> a shard."""
    decoded = not isinstance(next(iter(pictures.values()))[0], bytes)
    shape = np.shape(next(iter(pictures.values()))[0]) if decoded else None
    arrow = schema(tuple(pictures), shape, next((len(one) for one in labels if isinstance(one, Sequence)), None))
    sink = pa.BufferOutputStream()
    offsets = [0]
    with pa.ipc.new_file(sink, arrow) as writer:
        for start in range(0, len(keys), block_rows):
            part = slice(start, start + block_rows)
            columns = [_column(values[part]) for values in pictures.values()]
            columns += [pa.array(labels[part], arrow.field("label").type), pa.array(keys[part], pa.string())]
            batch = pa.record_batch(columns, arrow)
            writer.write_batch(batch)
            if start == 0:  # The file's own beginning is written together with the first block.
                offsets[0] = sink.tell() - pa.ipc.get_record_batch_size(batch)
            offsets.append(sink.tell())
    content = sink.getvalue()
    checks = tuple(checksum(content[start:stop]) for start, stop in pairwise(offsets))
    return Encoded(content, tuple(offsets), checks)


def _column(values: Sequence[Images] | Sequence[bytes]) -> pa.Array:
    if isinstance(values[0], bytes):
        return pa.array(values, pa.binary())
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(values))


def checksum(content: memoryview | pa.Buffer) -> str:
    """What a shard's `checks` hold of a block's bytes."""
    return xxhash.xxh3_64_hexdigest(content)


def rows_of(content: pa.Buffer, arrow: pa.Schema) -> pa.RecordBatch:
    """A block's bytes -> its rows, without a copy."""
    return pa.ipc.read_record_batch(content, arrow)


def pixels(rows: pa.RecordBatch, column: str) -> Images:
    """A column of decoded pictures, (rows, H, W, C), without a copy."""
    images: Images = rows.column(column).to_numpy_ndarray()
    return images


def labels(rows: pa.RecordBatch) -> NDArray[np.int64]:
    """The labels, (rows,), or 0 or 1 for each of several, (rows, A); NO_LABEL where there is none."""
    column = rows.column("label")
    valid, *_, values = column.buffers()  # Arrow's own ways to numpy import pandas into every replica.
    if pa.types.is_fixed_size_list(column.type):
        several = column.type.list_size
        found = np.frombuffer(values, np.uint8, several * len(column)).reshape(-1, several).astype(np.int64)
    else:
        found = np.frombuffer(values, np.int64, len(column)).copy()
    if column.null_count:
        found[np.unpackbits(np.frombuffer(valid, np.uint8), count=len(column), bitorder="little") == 0] = NO_LABEL
    return found
