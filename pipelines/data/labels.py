"""The classes of pictures, as the folders that they lie in say, or a file beside them; read right, or refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath

import pyarrow as pa

from pipelines.components import ConfigError
from pipelines.data.formats import Entry
from pipelines.data.formats.contents import contents
from pipelines.storage.location import Location

#: StyleGAN's data sets say in it which label each picture has.
DESCRIPTION = "dataset.json"
#: Folders that are called so hold parts of a data set, each with all of its classes.
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})


def labels_in(root: Location, description: pa.Table) -> Mapping[str, int] | None:
    """By picture, the label that StyleGAN's description gives it; None if it gives none.

    Args:
        description: where it lies, as a table of one entry.

    Raises:
        ConfigError: it is another kind of file, or gives several labels to a picture.
    """
    (content,) = contents(root, description)
    try:
        found = json.loads(content)["labels"]
        labels = None if found is None else {str(name): label for name, label in found}
    except (ValueError, KeyError, TypeError) as error:
        raise _refused(root, "is none of StyleGAN's") from error
    if labels is not None and not all(type(label) is int and label >= 0 for label in labels.values()):
        raise _refused(root, "gives labels that are no whole numbers, or several to a picture")
    return labels


def label_column(root: Location, names: list[str], inside: str, labels: Mapping[str, int]) -> pa.Array:
    """The labels of pictures by their names, which the description gives below the folder `inside`.

    Raises:
        ConfigError: it gives one of them none.
    """
    below = [name.removeprefix(inside) for name in names]
    if missing := [name for name in below if name not in labels]:
        raise _refused(root, f"gives {len(missing):,} pictures no label, such as {missing[0]}")
    return pa.array([labels[name] for name in below], pa.int64())


def class_column(root: Location, entries: list[Entry], inside: str) -> pa.Array | None:
    """The first folder that tells pictures apart, as the class of each; null for those beside such folders.

    None if there is no such folder, or but one, which is a split of a data set.

    Raises:
        ConfigError: such folders are several splits of a data set.
    """
    parents = [PurePosixPath(entry.name).relative_to(inside).parts[:-1] for entry in entries]
    inner = [parent for parent in parents if parent]
    if not inner:
        return None
    first, last = min(inner), max(inner)
    alike = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    common = min(alike, min(map(len, inner)) - 1)  # A single class is one too.
    names = [parent[common] if parent else None for parent in parents]
    if (found := {name for name in names if name}) <= _SPLITS:
        if len(found) == 1:
            return None
        folder = "/".join((*PurePosixPath(inside).parts, *inner[0][:common], min(found)))
        raise ConfigError(
            f"data.source.classes: {', '.join(sorted(found))} in {root} are splits, and no classes; choose one with "
            f"data.source.inside={folder}, or take all with data.source.classes=false"
        )
    return pa.array(names, pa.string())


def _refused(root: Location, why: str) -> ConfigError:
    return ConfigError(
        f"data.source.classes: {DESCRIPTION} in {root} {why}; take the pictures without labels, with "
        "data.source.classes=false"
    )
