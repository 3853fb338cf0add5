"""The idx files of MNIST and Fashion-MNIST, gzipped or not (format: yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.components import ConfigError
from pipelines.data.shards import Images
from pipelines.data.sources import ArraySource, Uri, existing, fingerprint_files
from pipelines.storage.location import Location

_IMAGES, _LABELS = 0x00000803, 0x00000801


class Idx(ArraySource):
    """A folder with ``train-images-idx3-ubyte`` and its labels, or ``t10k-...``, each with or without .gz."""

    uri: Uri
    split: Literal["train", "t10k"] = "train"

    def arrays(self) -> tuple[Images, NDArray[np.integer]]:
        images, labels = self._files()
        pictures, targets = _read(images, _IMAGES), _read(labels, _LABELS)
        if len(pictures) != len(targets):
            raise ConfigError(f"{images} has {len(pictures)} images, but {labels} has {len(targets)} labels")
        return pictures, targets

    def key(self, row: int) -> str:
        return f"{self.split}-{row:05}"

    def fingerprint(self) -> str:
        return fingerprint_files(file.describe() for file in self._files())

    def describe(self) -> str:
        return f"idx {self.split} {existing(self.uri).name}"

    def _files(self) -> tuple[Location, Location]:
        folder = existing(self.uri)
        return (
            _plain_or_gzipped(folder, f"{self.split}-images-idx3-ubyte"),
            _plain_or_gzipped(folder, f"{self.split}-labels-idx1-ubyte"),
        )


def _plain_or_gzipped(folder: Location, name: str) -> Location:
    file = folder / name
    for candidate in (file, folder / f"{name}.gz"):
        if candidate.exists():
            return candidate
    raise ConfigError(f"data.source.uri: {file} does not exist, nor with .gz; name MNIST's folder")


def _read(file: Location, magic: int) -> Images:
    """The array in an idx file. Raises ConfigError if the file is cut short or of another kind."""
    try:
        content = gzip.decompress(file.read()) if file.name.endswith(".gz") else file.read()
    except (EOFError, OSError, zlib.error) as error:
        raise ConfigError(f"{file}: damaged gzip file ({error}); fetch it again") from error
    if len(content) < 4 or struct.unpack(">I", content[:4])[0] != magic:
        raise ConfigError(f"{file}: not an idx file, it should start with {magic:#010x}")
    dimensions = magic & 0xFF
    if len(content) < 4 + 4 * dimensions:
        raise ConfigError(f"{file}: ends in its header; fetch it again")
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if body.size != np.prod(shape):
        raise ConfigError(f"{file}: has {body.size} values, its header says {np.prod(shape)}; fetch it again")
    return body.reshape(shape)
