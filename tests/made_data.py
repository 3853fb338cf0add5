"""Data sets made up for tests, in other people's formats."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.data.shards import Images
from pipelines.data.sources.digits import Digits
from pipelines.data.sources.pairs import Pairs

RANDOM = np.random.default_rng(0)


def encoded(kind: str = "PNG", size: tuple[int, int] = (90, 60), mode: str = "RGB") -> bytes:
    """A picture of noise, (width, height)."""
    width, height = size
    image = Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def write_idx(folder: Path, zipped: bool = False, count: int = 7) -> Images:
    images = RANDOM.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    files = {
        "train-images-idx3-ubyte": struct.pack(">4I", 0x803, count, 28, 28) + images.tobytes(),
        "train-labels-idx1-ubyte": struct.pack(">2I", 0x801, count) + bytes(at % 10 for at in range(count)),
    }
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        file = folder / (f"{name}.gz" if zipped else name)
        file.write_bytes(gzip.compress(content) if zipped else content)
    return images


def write_lmdb(folder: Path, values: Mapping[str, bytes]) -> None:
    with lmdb.open(str(folder), map_size=1 << 27) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)


def write_zip(file: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def bedrooms(folder: Path, count: int, size: tuple[int, int] = (48, 40), kind: str = "WEBP") -> dict[str, bytes]:
    """An LMDB in LSUN's layout, and what is in it, in order."""
    values = {f"{at * 2654435761 % 2**32:040x}": encoded(kind, size) for at in range(count)}
    write_lmdb(folder, values)
    return dict(sorted(values.items()))


def pairs(folder: Path, count: int = 24, side: int = 32) -> Pairs:
    """Blurred noise, and beside it its negative."""
    folder.mkdir(parents=True)
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        left = np.asarray(Image.fromarray(noise).resize((side, side)))
        Image.fromarray(np.concatenate([left, 255 - left], 1)).save(folder / f"{number:03}.png")
    return Pairs(uri=str(folder))


class ToldDigits(Digits):
    """The digits, each with four attributes: the bits of its number."""

    def arrays(self) -> tuple[Images, NDArray[np.integer]]:
        pictures, labels = super().arrays()
        return pictures, labels[:, None] >> np.arange(4) & 1


class FewKinds(Digits):
    """The bundled digits, by what is left of them after a division."""

    kinds: int

    def arrays(self) -> tuple[Images, NDArray[np.integer]]:
        images, labels = super().arrays()
        return images, labels % self.kinds
