"""MNIST's idx files, gzipped or not (format: yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from pipelines.shards import Images
from pipelines.sources import Sample, Source, existing, fingerprint_files
from service.components import ConfigError

_IMAGES, _LABELS = 0x00000803, 0x00000801


class Idx(Source):
    """A folder with ``train-images-idx3-ubyte`` and its labels, or ``t10k-...``, each with or without .gz."""

    uri: str
    split: Literal["train", "t10k"] = "train"

    def samples(self) -> Iterator[Sample]:
        images, labels = self._files()
        pictures, targets = _read(images, _IMAGES), _read(labels, _LABELS)
        if len(pictures) != len(targets):
            raise ConfigError(f"{images} has {len(pictures)} images, but {labels} has {len(targets)} labels")
        for index, (picture, label) in enumerate(zip(pictures, targets, strict=True)):
            yield Sample(f"{self.split}-{index:05}", picture, int(label))

    def fingerprint(self) -> str:
        return fingerprint_files(self._files())

    def describe(self) -> str:
        return f"idx {self.split}"

    def _files(self) -> tuple[Path, Path]:
        folder = existing(self.uri)
        return (
            _plain_or_gzipped(folder / f"{self.split}-images-idx3-ubyte"),
            _plain_or_gzipped(folder / f"{self.split}-labels-idx1-ubyte"),
        )


def _plain_or_gzipped(path: Path) -> Path:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.exists():
            return candidate
    raise ConfigError(f"data.source.uri: {path} does not exist, nor with .gz; name MNIST's folder")


def _read(path: Path, magic: int) -> Images:
    """The array in an idx file. Raises ConfigError if the file is cut short or of another kind."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise ConfigError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    if len(content) < 4 or struct.unpack(">I", content[:4])[0] != magic:
        raise ConfigError(f"{path}: not an idx file, it should start with {magic:#010x}")
    dimensions = magic & 0xFF
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if body.size != np.prod(shape):
        raise ConfigError(f"{path}: has {body.size} values, its header says {np.prod(shape)}; fetch it again")
    return body.reshape(shape)
