"""Folder trees: every file is a picture."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.components import ConfigError
from pipelines.data.formats import DEAD_LINK, FILE, Entry, is_hidden
from pipelines.storage.location import Found, Location


def in_folder(folder: Location, files: Sequence[Found], dead_links: Sequence[str]) -> list[Entry]:
    """The files of a folder tree, and links to nothing, less hidden ones. Raises ConfigError if there is none."""
    found = [file for file in files if not is_hidden(file.name)]
    if not found:
        raise ConfigError(f"data.source.uri: {folder} does not exist or is empty; set it to your copy of the data")
    dead = [Entry(name, name, 0, 0, DEAD_LINK) for name in dead_links if not is_hidden(name)]
    return sorted([*(Entry(file.name, file.name, 0, file.size, FILE) for file in found), *dead])
