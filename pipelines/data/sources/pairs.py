"""Pairs of pictures, as pix2pix has them: side by side in one file, or in two folders under the same names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

import pyarrow as pa
from pydantic import Field

from pipelines.components import ConfigError
from pipelines.data.sources import Sample, Survey, SurveyedSource, Uri, existing, samples_at
from pipelines.data.sources.folder import Folder

_OTHER = "other "


class Pairs(SurveyedSource):
    """A left and a right half, or pictures of the same name in two folders; columns ``image`` and ``paired``."""

    uri: Uri = Field(description="folder or zip: of both side by side, or of the first")
    other_uri: Uri | None = Field(
        None, description="folder or zip of the second ones, if those have files of their own"
    )
    inside: str = Field("", description="only what lies in this folder of them")

    @property
    def columns(self) -> tuple[str, ...]:
        return "image", "paired"

    @property
    def side_by_side(self) -> bool:
        return self.other_uri is None

    def survey(self) -> Survey:
        found = [self._folder(uri).survey() for uri in (self.uri, self.other_uri) if uri is not None]
        fingerprint = "/".join([*(one.fingerprint for one in found), self.inside])
        return Survey(fingerprint, lambda: self._index(*(one.index() for one in found)))

    def _index(self, first: pa.Table, others: pa.Table | None = None) -> pa.Table:
        if self.other_uri is None or others is None:
            return first
        here, there = _stems(self.uri, first), _stems(self.other_uri, others)
        if alone := sorted(here.keys() ^ there.keys()):
            missing = self.other_uri if alone[0] in here else self.uri
            raise ConfigError(f"data.source: {missing} has no {alone[0]!r}: {len(alone)} pictures have no partner")
        partners = others.take([there[stem] for stem in here])
        for name in partners.column_names:
            first = first.append_column(f"{_OTHER}{name}", partners.column(name))
        return first

    def read(self, part: pa.Table) -> Iterator[Sample]:
        samples = samples_at(existing(self.uri), part)
        if self.other_uri is None:
            yield from samples
            return
        renamed = {
            name.removeprefix(_OTHER): part.column(name) for name in part.column_names if name.startswith(_OTHER)
        }
        partners = samples_at(existing(self.other_uri), pa.table(renamed))
        for sample, partner in zip(samples, partners, strict=True):
            yield Sample(sample.key, sample.pictures + partner.pictures)

    def describe(self) -> str:
        return f"pairs of {self._folder(self.uri).describe()}"

    def _folder(self, uri: str) -> Folder:
        return Folder(uri=uri, inside=self.inside, classes=False)


def _stems(uri: str, table: pa.Table) -> dict[str, int]:
    """Rows by name, without the ending: a photograph's partner may be a drawing in another format."""
    stems = [str(PurePosixPath(name).with_suffix("")) for name in table.column("name").to_pylist()]
    found = {stem: row for row, stem in enumerate(stems)}
    if len(found) < len(stems):
        twice = next(stem for stem in found if stems.count(stem) > 1)
        raise ConfigError(f"data.source: {uri} has several pictures named {twice!r}")
    return found
