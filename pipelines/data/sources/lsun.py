"""LSUN's LMDBs: 40-hex keys, values that are encoded pictures (JPEG by its README, WebP in fact)."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipelines.data.formats.lmdbs import in_lmdb
from pipelines.data.sources import Sample, Source, Uri, existing, files_of, fingerprint_files, samples_at, tabulate


class Lsun(Source):
    """A folder with ``data.mdb``, such as ``bedroom_train_lmdb``, or the zip it came in, if that is not compressed.

    LSUN has one category a file: no labels.
    """

    uri: Uri

    def index(self) -> pa.Table:
        return tabulate(in_lmdb(existing(self.uri)))

    def read(self, part: pa.Table) -> Iterator[Sample]:
        return samples_at(existing(self.uri), part)

    def fingerprint(self) -> str:
        found = [file for file in files_of(existing(self.uri)) if not file.name.endswith("lock.mdb")]
        return fingerprint_files(found)

    def describe(self) -> str:
        return f"LSUN LMDB {existing(self.uri).name}"
