"""LSUN's LMDBs: every value is an encoded picture, its key the picture's name."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.components import ConfigError
from pipelines.data.formats import RANGE, Entry
from pipelines.data.formats.lmdb_pages import NotLmdbError, entries
from pipelines.data.formats.zips import is_zip, stored_member
from pipelines.storage.location import Location
from pipelines.storage.ranged_reads import threads_for

_FILE = "data.mdb"


def in_lmdb(location: Location) -> Iterator[Entry]:
    """The values of an LMDB: a folder with ``data.mdb``, that file, or a zip that holds it uncompressed.

    Raises:
        ConfigError: there is none, or it cannot be read where it lies.
    """
    if location.is_file():
        base, name = (stored_member(location, _FILE), "") if is_zip(location) else (0, "")
        file = location
    else:
        base, name, file = 0, _FILE, location / _FILE
        if not file.is_file():
            raise ConfigError(f"data.source.uri: {file} does not exist; name the folder that holds data.mdb")
    try:
        with file.open() as opened:
            for entry in entries(opened, base, threads_for(file)):
                yield Entry(entry.key.decode("ascii", "backslashreplace"), name, *entry.span, RANGE)
    except NotLmdbError as error:
        raise ConfigError(f"data.source.uri: {file} cannot be read as an LMDB: {error}") from error
