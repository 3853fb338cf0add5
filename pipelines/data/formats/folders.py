"""Folder trees: every file is a picture."""

from __future__ import annotations

from pipelines.components import ConfigError
from pipelines.data.formats import FILE, Entry, is_hidden
from pipelines.storage.location import Location


def in_folder(folder: Location) -> list[Entry]:
    """The files of a folder tree, less hidden ones. Raises ConfigError if there is none."""
    found = [file for file in folder.files(recursive=True) if not is_hidden(file.name)]
    if not found:
        raise ConfigError(f"data.source.uri: {folder} does not exist or is empty; set it to your copy of the data")
    return [Entry(file.name, file.name, 0, file.size, FILE) for file in found]
