"""Shards and their manifest: the one contract between writing and reading data.

A data set is a folder of Arrow IPC files of one record batch each, and ``manifest.json``, which is written
last. Columns: ``image``, uint8 (H, W, C); ``label``, int64 or null; ``key``, the sample's name in its source.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, computed_field

from pipelines.storage import Location

Images = NDArray[np.uint8]
MANIFEST = "manifest.json"


class Shard(BaseModel):
    """One file of a data set."""

    model_config = ConfigDict(frozen=True)

    name: str
    rows: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a data set holds, and how it came to be."""

    model_config = ConfigDict(frozen=True)

    version: int = 1
    source: str
    transform: dict[str, str | int]
    height: int
    width: int
    channels: int
    lanes: int
    skipped: dict[str, int]
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def hash(self) -> str:
        """Names the data set's version: it follows the order and content of the rows, not where they lie."""
        digest = hashlib.sha256(f"{self.lanes}/{self.height}x{self.width}x{self.channels}".encode())
        for shard in self.shards:
            digest.update(f"{shard.rows}/{shard.sha256}".encode())
        return digest.hexdigest()[:16]


def encode(images: Images, labels: Sequence[int | None], keys: Sequence[str]) -> bytes:
    """Images (N, H, W, C) with their labels and keys -> the bytes of a shard."""
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(images))
    batch = pa.record_batch(
        {"image": tensor, "label": pa.array(labels, pa.int64()), "key": pa.array(keys, pa.string())}
    )
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def read_manifest(folder: Location) -> Manifest:
    """Raises FileNotFoundError if `folder` holds no (complete) data set."""
    return Manifest.model_validate_json((folder / MANIFEST).read())


def read_images(folder: Location, shard: Shard) -> Images:
    """A shard's images, (rows, H, W, C), mapped into memory where the folder is local.

    Raises:
        ValueError: the file is missing, or not what the manifest says.
    """
    file = folder / shard.name
    try:
        buffer = file.buffer()
    except OSError as error:
        raise ValueError(f"shard {file} cannot be read: {error}") from error
    if buffer.size != shard.bytes:
        raise ValueError(f"shard {file} has {buffer.size} bytes, the manifest says {shard.bytes}: ingest it again")
    column = pa.ipc.open_file(buffer).get_batch(0).column("image")
    images: Images = column.to_numpy_ndarray()
    return images
