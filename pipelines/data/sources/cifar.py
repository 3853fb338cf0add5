"""CIFAR-10's and CIFAR-100's python batches (cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

import io
import pickle
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.components import ConfigError
from pipelines.data.shards import Images
from pipelines.data.sources import ArraySource, Uri, existing, fingerprint_files
from pipelines.storage.location import Found, Location

_FILES = {"train": ("train", "data_batch_"), "test": ("test",)}
_VALUES = 3 * 32 * 32


class Cifar(ArraySource):
    """A folder such as ``cifar-10-batches-py`` or ``cifar-100-python``; CIFAR-100's labels are the fine ones."""

    uri: Uri
    split: Literal["train", "test"] = "train"

    def arrays(self) -> tuple[Images, NDArray[np.integer]]:
        batches = [_batch(existing(self.uri) / file.name) for file in self._files()]
        pictures = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, 32, 32)
        return np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)), np.concatenate([labels for _, labels in batches])

    def key(self, row: int) -> str:
        return f"{self.split}-{row:05}"

    def fingerprint(self) -> str:
        return fingerprint_files(self._files())

    def describe(self) -> str:
        return f"CIFAR {self.split} {existing(self.uri).name}"

    def _files(self) -> list[Found]:
        folder = existing(self.uri)
        found = [file for file in folder.files() if file.name.startswith(_FILES[self.split])]
        if not found:
            raise ConfigError(f"data.source.uri: {folder} has no {self.split} batches; name cifar-10-batches-py")
        return found


class _Unpickler(pickle.Unpickler):
    """Makes arrays, and nothing else: a pickle can otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("_reconstruct", "scalar"):
            return super().find_class("numpy._core.multiarray", name)
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # How Python 3 writes bytes for Python 2.
            return lambda text, encoding: text.encode(encoding)
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def _batch(file: Location) -> tuple[Images, NDArray[np.integer]]:
    """One file's pixels (N, 3072) and labels (N,). Raises ConfigError if it is damaged or no such batch."""
    try:
        content = _Unpickler(io.BytesIO(file.read()), encoding="bytes").load()
        values = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        pixels = np.asarray(values["data"], np.uint8)
        labels = np.asarray(values["labels"] if "labels" in values else values["fine_labels"])
    except Exception as error:  # A damaged pickle raises anything.
        raise ConfigError(f"{file}: no CIFAR batch ({type(error).__name__}: {error}); fetch it again") from error
    if pixels.ndim != 2 or pixels.shape[1] != _VALUES or len(labels) != len(pixels):
        raise ConfigError(f"{file}: has {pixels.shape} values and {len(labels)} labels, not (N, {_VALUES}) and N")
    return pixels, labels
