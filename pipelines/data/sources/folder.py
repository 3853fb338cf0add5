"""Folder trees of pictures, and zips of them (or of zips), such as Kaggle's sample of LSUN."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import pyarrow as pa
from pydantic import Field

from pipelines.components import ConfigError
from pipelines.data.attributes import COLUMN, attribute_column
from pipelines.data.formats import Entry
from pipelines.data.formats.folders import in_folder
from pipelines.data.formats.zips import in_zip, is_zip
from pipelines.data.labels import DESCRIPTION, class_column, label_column, labels_in
from pipelines.data.sources import (
    Sample,
    Survey,
    SurveyedSource,
    Uri,
    existing,
    fingerprint_files,
    samples_at,
    tabulate,
)
from pipelines.storage.location import Found, Location


class Folder(SurveyedSource):
    """Every file below a folder, or in a zip, is a picture; what the first folders are called are its classes.

    Where StyleGAN's ``dataset.json`` lies beside them, it says their labels instead; a file of attributes goes first.
    """

    uri: Uri
    inside: str = Field("", description="only what lies in this folder of it")
    classes: bool = Field(True, description="whether the first folders are classes")
    attributes: Uri | None = Field(
        None, description="file of several labels a picture: CSV, or as CelebA's list_attr_celeba.txt"
    )

    @property
    def choice(self) -> str:
        chosen = self.model_dump(exclude_defaults=True, exclude={"uri", "attributes"})
        return json.dumps(chosen) if chosen else ""

    def survey(self) -> Survey:
        root = existing(self.uri)
        files, dead_links = ([root.describe()], []) if root.is_file() else root.tree()
        looked_at = files if self.attributes is None else [*files, _described(self.attributes)]
        return Survey(fingerprint_files(looked_at), lambda: self._index(root, self._entries(root, files, dead_links)))

    def _index(self, root: Location, found: list[Entry]) -> pa.Table:
        inside = self._inside
        description = [entry for entry in found if entry.name == inside + DESCRIPTION]
        given = None if self.attributes is None else Location.of(self.attributes)
        others = {inside + DESCRIPTION, *([str(given).removeprefix(f"{root}/")] if given else [])}
        pictures = [entry for entry in found if entry.name not in others]
        table = tabulate(pictures)
        names = table.column("name").to_pylist()
        if given:
            return table.append_column(COLUMN, attribute_column(given, [name.removeprefix(inside) for name in names]))
        if not self.classes:
            return table
        if description:
            labels = labels_in(root, tabulate(description))
            if labels is None:
                return table
            column = label_column(root, names, inside, labels)
            return table.append_column(COLUMN if pa.types.is_struct(column.type) else "label", column)
        classes = class_column(root, pictures, inside)
        return table if classes is None else table.append_column("class", classes)

    def _entries(self, root: Location, files: Sequence[Found], dead_links: Sequence[str]) -> list[Entry]:
        """Where every picture lies. Raises ConfigError if there is none."""
        found = in_zip(root) if root.is_file() and is_zip(root) else in_folder(root, files, dead_links)
        chosen = [entry for entry in found if entry.name.startswith(self._inside)]
        if not chosen:
            known = sorted({PurePosixPath(entry.name).parts[0] for entry in found})[:10]
            raise ConfigError(f"data.source.inside: {root} has no {self.inside!r}; it has {', '.join(known)}")
        return chosen

    @property
    def _inside(self) -> str:
        """What the names of its pictures start with."""
        return f"{self.inside.strip('/')}/" if self.inside else ""

    def read(self, part: pa.Table) -> Iterator[Sample]:
        return samples_at(existing(self.uri), part)

    def describe(self) -> str:
        return f"pictures in {existing(self.uri).name}{f'/{self.inside}' if self.inside else ''}"


def _described(attributes: str) -> Found:
    try:
        return Location.of(attributes).describe()
    except OSError as error:
        raise ConfigError(f"data.source.attributes: {attributes} cannot be read: {error}") from error
