"""LSUN's LMDB folders: 40-hex keys, values that are encoded pictures (JPEG by its README, WebP in fact)."""

from __future__ import annotations

from collections.abc import Iterator

import lmdb

from pipelines.sources import Sample, Source, existing, fingerprint_files
from service.components import ConfigError


class Lsun(Source):
    """A folder with ``data.mdb``, such as ``bedroom_train_lmdb``. LSUN has one category a folder: no labels."""

    uri: str

    def samples(self) -> Iterator[Sample]:
        try:
            environment = lmdb.open(str(existing(self.uri)), readonly=True, lock=False, readahead=False, create=False)
        except lmdb.Error as error:
            raise ConfigError(f"data.source.uri: {self.uri} is no LMDB folder ({error})") from error
        with environment, environment.begin() as transaction:
            for key, value in transaction.cursor():
                yield Sample(key.decode("ascii", "backslashreplace"), bytes(value))

    def fingerprint(self) -> str:
        file = existing(self.uri) / "data.mdb"
        if not file.exists():
            raise ConfigError(f"data.source.uri: {file} does not exist; name the folder that holds data.mdb")
        return fingerprint_files([file])

    def describe(self) -> str:
        return "LSUN LMDB"
