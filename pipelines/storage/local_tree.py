"""What lies below a folder of this machine, where links may lead anywhere, or in circles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipelines.components import ConfigError


def files_below(folder: str) -> Iterator[tuple[str, os.stat_result | None]]:
    """Every file, by its path from the folder on, links followed; None stands for a link to nothing.

    Each folder is entered once, by its own name rather than by that of a link to it.

    Raises:
        ConfigError: a name is no UTF-8, which is what manifests are written in.
    """
    seen: set[tuple[int, int]] = set()
    linked: list[str] = []
    if Path(folder).is_dir():
        yield from _files_of(folder, "", seen, linked)
    while linked:
        yield from _files_of(folder, linked.pop(0), seen, linked)


def _files_of(
    root: str, name: str, seen: set[tuple[int, int]], linked: list[str]
) -> Iterator[tuple[str, os.stat_result | None]]:
    """Those of one folder and of the folders in it; links to folders are noted in `linked`."""
    below = [name]
    while below:
        name = below.pop()
        place = Path(root, name)
        itself = place.stat()
        if (itself.st_dev, itself.st_ino) in seen:
            continue
        seen.add((itself.st_dev, itself.st_ino))
        with os.scandir(place) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            try:
                entry.name.encode()
            except UnicodeEncodeError as error:
                raise ConfigError(f"{entry.name!a} in {place}: its name is no UTF-8; rename it") from error
            path = f"{name}/{entry.name}" if name else entry.name
            try:
                if entry.is_dir():
                    (linked if entry.is_symlink() else below).append(path)
                elif entry.is_file():
                    yield path, entry.stat()
                elif entry.is_symlink():
                    yield path, None
            except OSError:  # A link that leads to itself.
                yield path, None
