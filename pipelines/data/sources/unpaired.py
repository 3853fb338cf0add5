"""Unpaired domains in CycleGAN's layout: ``trainA`` and ``trainB`` (and ``testA``, ``testB``) side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import pyarrow as pa

from pipelines.data.sources import Sample, Survey, SurveyedSource, Uri
from pipelines.data.sources.folder import Folder


class Unpaired(SurveyedSource):
    """One domain; each becomes a data set of its own, with an order of its own, however many pictures it has."""

    uri: Uri
    domain: Literal["A", "B"]
    split: Literal["train", "test"] = "train"

    @property
    def _folder(self) -> Folder:
        return Folder(uri=self.uri, inside=f"{self.split}{self.domain}", classes=False)

    def survey(self) -> Survey:
        found = self._folder.survey()
        return replace(found, fingerprint=f"{found.fingerprint}/{self._folder.inside}")

    def read(self, part: pa.Table) -> Iterator[Sample]:
        return self._folder.read(part)

    def describe(self) -> str:
        return self._folder.describe()
