"""The classes of pictures, as the folders that they lie in say, or a file beside them; read right, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from pipelines.components import ConfigError
from pipelines.data.attributes import struct_of
from pipelines.data.formats import Entry
from pipelines.data.formats.contents import contents
from pipelines.storage.location import Location

#: StyleGAN's data sets say in it which label each picture has.
DESCRIPTION = "dataset.json"
#: Folders that are called so hold parts of a data set, each with all of its classes.
_SPLITS = frozenset(
    {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "extra", "unlabeled", "unlabelled"}
)


def labels_in(root: Location, description: pa.Table) -> Mapping[str, int | list[int]] | None:
    """By picture, the label that StyleGAN's description gives it, or 0 or 1 for each of several; None if it says none.

    Args:
        description: where it lies, as a table of one entry.

    Raises:
        ConfigError: it is another kind of file, or gives other labels.
    """
    (content,) = contents(root, description)
    try:
        found = json.loads(content)["labels"]
        labels = None if found is None else {str(name): label for name, label in found}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refused(root, "is none of StyleGAN's") from error
    if labels is None or all(type(label) is int and 0 <= label < 2**31 for label in labels.values()):
        return labels
    if not _are_vectors(list(labels.values())):
        raise _refused(root, "gives labels that are neither whole numbers nor lists of 0 and 1, all of one length")
    return {name: list(map(int, label)) for name, label in labels.items()}


def _are_vectors(labels: list[Any]) -> bool:
    lengths = {len(label) if isinstance(label, list) else 0 for label in labels}
    return len(lengths) == 1 and 0 not in lengths and all(value in (0, 1) for label in labels for value in label)


def label_column(root: Location, names: list[str], inside: str, labels: Mapping[str, int | list[int]]) -> pa.Array:
    """The labels of pictures by their names, which the description gives below the folder `inside`.

    Several to each are attributes (`pipelines.data.attributes`), which are called by their numbers.

    Raises:
        ConfigError: it gives one of them none.
    """
    below = [name.removeprefix(inside) for name in names]
    if missing := [name for name in below if name not in labels]:
        raise _refused(root, f"gives {len(missing):,} pictures no label, such as {missing[0]}")
    chosen = [labels[name] for name in below]
    if vectors := [label for label in chosen if isinstance(label, list)]:
        return struct_of(list(map(str, range(len(vectors[0])))), vectors)
    return pa.array(chosen, pa.int64())


def class_column(root: Location, entries: list[Entry], inside: str) -> pa.Array | None:
    """The first folder that tells pictures apart, as the class of each; null for those beside such folders.

    None if there is no such folder.

    Raises:
        ConfigError: among such folders are several splits of a data set, or a description lies in one.
    """
    parents = [PurePosixPath(entry.name).relative_to(inside).parts[:-1] for entry in entries]
    inner = [parent for parent in parents if parent]
    if not inner:
        return None
    deepest = max(map(len, inner))
    levels = ({parent[level] for parent in inner if len(parent) > level} for level in range(deepest))
    alone = min(map(len, inner)) - 1  # A single class is one too.
    common = next((level for level, found in enumerate(levels) if len(found) > 1), alone)
    names = [parent[common] if len(parent) > common else None for parent in parents]
    found = {name for name in names if name}
    above = (*PurePosixPath(inside).parts, *inner[0][:common])
    if len(splits := sorted(name for name in found if name.casefold() in _SPLITS)) > 1:
        raise ConfigError(
            f"data.source.classes: {', '.join(splits)} in {root} are splits, and no classes; choose one with "
            f"data.source.inside={'/'.join((*above, splits[0]))}, or take all with data.source.classes=false"
        )
    if below := sorted(entry.name for entry in entries if PurePosixPath(entry.name).name == DESCRIPTION):
        folder = str(PurePosixPath(below[0]).parent)
        raise _refused(root, f"lies in {folder}", f"choose that with data.source.inside={folder}, or")
    return pa.array(names, pa.string())


def _refused(root: Location, why: str, better: str = "") -> ConfigError:
    return ConfigError(
        f"data.source.classes: {DESCRIPTION} in {root} {why};{better and f' {better}'} take the pictures without "
        "labels, with data.source.classes=false"
    )
