"""Several labels a picture: a file that says which attributes each has, such as CelebA's ``list_attr_celeba.txt``."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipelines.components import ConfigError
from pipelines.storage.location import Location

#: The column of an index that holds attributes: a struct of 0 and 1 by name.
COLUMN = "attributes"
_VALUES = {"1": 1, "0": 0, "-1": 0}
#: So many of the pictures that a file names are named to somebody whose pictures it does not.
_SHOWN = 3


def attribute_column(file: Location, pictures: Sequence[str]) -> pa.StructArray:
    """The attributes of pictures, by their names, as the file gives them.

    Args:
        file: CSV, whose first line names the attributes and whose first column the pictures; or CelebA's list, which
            begins with the number of pictures, and has spaces between values. 1 is yes; 0, as well as -1, is no.

    Raises:
        ConfigError: it cannot be read so, or says nothing of a picture.
    """
    try:
        text = file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.source.attributes: {file} cannot be read: {error}") from error
    rows = _rows(text)
    _, names = next(rows, (0, []))
    if not names or len(set(names)) < len(names) or "" in names:
        raise _refused(file, "names no attributes in its first line, or one of them twice")
    given: dict[str, list[int]] = {}
    for line, (picture, *values) in rows:
        if picture in given:
            raise _refused(file, f"has {picture} twice, the second time in line {line}")
        if len(values) != len(names):
            raise _refused(file, f"has {len(values)} values in line {line}, for {len(names)} attributes")
        if unknown := [value for value in values if value not in _VALUES]:
            raise _refused(file, f"has the value {unknown[0]!r} in line {line}; attributes are 1, or 0 or -1")
        given[picture] = [_VALUES[value] for value in values]
    if missing := [picture for picture in pictures if picture not in given]:
        folder, some = missing[0].rpartition("/")[0], ", ".join(itertools.islice(given, _SHOWN))
        better = f"; data.source.inside={folder} takes the pictures that it names" if folder else ""
        raise ConfigError(
            f"data.source.attributes: {file} says nothing of {len(missing):,} pictures, such as {missing[0]}; it names "
            f"{some or 'none'}{better}"
        )
    return struct_of(names, [given[picture] for picture in pictures])


def struct_of(names: Sequence[str], rows: Sequence[Sequence[int]]) -> pa.StructArray:
    """0 or 1 for each attribute of each sample, as an index has them."""
    return pa.StructArray.from_arrays([pa.array(values) for values in np.array(rows, np.uint8).T], list(names))


def lists_of(attributes: pa.ChunkedArray) -> pa.FixedSizeListArray:
    """An index's attributes, as shards have them."""
    values = np.stack([np.asarray(of_one) for of_one in attributes.combine_chunks().flatten()], 1)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def attribute_names(index: pa.Table) -> tuple[str, ...]:
    """Those that an index has; none if its samples have no attributes."""
    return tuple(field.name for field in index.schema.field(COLUMN).type) if COLUMN in index.column_names else ()


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Lines with their numbers; of the first, which names the attributes, without what stands for the pictures."""
    lines = text.splitlines()
    if lines and lines[0].strip().isdigit():
        yield 2, lines[1].split() if len(lines) > 1 else []
        yield from ((number, line.split()) for number, line in enumerate(lines[2:], 3) if line.strip())
        return
    rows = ((number, [value.strip() for value in row]) for number, row in enumerate(csv.reader(lines), 1) if row)
    yield from ((number, names) for number, (_, *names) in itertools.islice(rows, 1))
    yield from rows


def _refused(file: Location, why: str) -> ConfigError:
    return ConfigError(f"data.source.attributes: {file} {why}; mend it, or leave it out")
