"""One shard: a part of a source, read, transformed and written; what every task of an ingest does."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
from PIL import Image
from pydantic import BaseModel

from pipelines.data.images import BadPictureError, Transform, halves
from pipelines.data.shards import NO_LABEL, Images, Label, Labels, Shard, Stored, encode
from pipelines.data.sources import Sample, Source
from pipelines.storage.location import Location

#: How many samples of each kind that was skipped are named.
EXAMPLES = 10
_PROGRESS_EVERY = 256


@dataclass(frozen=True)
class Work:
    """What is to be written: a part of a source's index, as one shard.

    Attributes:
        target: folder or URI of the data set.
        note: name of the file, below the target, that says that the shard is done.
        shown: whether pictures are taken as a viewer shows them, and not as they lie.
    """

    source: Source
    part: pa.Table
    transform: Transform
    stored: Stored
    block_rows: int
    target: str
    shard: str
    note: str
    shown: bool = True


class Skipped(BaseModel):
    """Samples of one kind that cannot be used."""

    count: int = 0
    examples: tuple[str, ...] = ()

    def plus(self, other: Skipped) -> Skipped:
        return Skipped(count=self.count + other.count, examples=(self.examples + other.examples)[:EXAMPLES])


class Part(BaseModel):
    """A part of the source that is done, by its note's name. There is no shard if nothing in it could be used.

    Notes of a time before labels were counted say nothing of them.
    """

    name: str
    shard: Shard | None
    samples: int
    skipped: dict[str, Skipped]
    converted: dict[str, int]
    labels: Labels | None = None


class _Row(NamedTuple):
    pictures: tuple[Images | bytes, ...]
    label: Label | None
    key: str


def write_shard(work: Work, progress: Callable[[int], None] = lambda samples: None) -> Part:
    """Write a shard, and then the note about it: where there is a note, there is the shard.

    Args:
        progress: is called with how many more samples have been read, now and then.

    Raises:
        OSError: the source or the target fails.
    """
    skipped: dict[str, Skipped] = {}
    converted: Counter[str] = Counter()
    rows = list(_usable(work, skipped, converted, progress))
    target = Location.of(work.target)
    shard = None
    if rows:
        shard, content = _encode(rows, work)
        (target / shard.name).write(content)
    part = Part(
        name=work.note,
        shard=shard,
        samples=len(work.part),
        skipped=skipped,
        converted=dict(converted),
        labels=_counted(rows),
    )
    (target / work.note).write(part.model_dump_json().encode())
    return part


def _usable(
    work: Work, skipped: dict[str, Skipped], converted: Counter[str], progress: Callable[[int], None]
) -> Iterator[_Row]:
    for number, sample in enumerate(work.source.read(work.part), 1):
        if number % _PROGRESS_EVERY == 0:
            progress(_PROGRESS_EVERY)
        try:
            pictures = _prepare(sample, work, converted)
        except BadPictureError as error:
            found = Skipped(count=1, examples=(f"{sample.key}: {error}",))
            skipped[error.kind] = skipped.get(error.kind, Skipped()).plus(found)
        else:
            yield _Row(pictures, sample.label, sample.key)
    progress(len(work.part) % _PROGRESS_EVERY)


def _prepare(sample: Sample, work: Work, converted: Counter[str]) -> tuple[Images | bytes, ...]:
    transform = work.transform
    opened = [transform.open(picture, work.shown) for picture in sample.pictures]
    images = halves(opened[0].image) if work.source.side_by_side else tuple(picture.image for picture in opened)
    converted.update(what for picture in opened for what in picture.converted)
    if work.stored == "decoded":
        return tuple(transform.fit(image) for image in images)
    if work.source.side_by_side:
        return tuple(_as_png(image) for image in images)
    return tuple(
        picture if isinstance(picture, bytes) else _as_png(image)
        for picture, image in zip(sample.pictures, images, strict=True)
    )


def _counted(rows: list[_Row]) -> Labels:
    known = [row.label for row in rows if row.label is not None]
    highest = (label if isinstance(label, int) else max(label) for label in known)
    return Labels(rows=len(known), highest=max(highest, default=NO_LABEL))


def _as_png(image: Image.Image) -> bytes:
    """What has no bytes of its own gets some, without loss."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _encode(rows: list[_Row], work: Work) -> tuple[Shard, memoryview]:
    pictures: dict[str, list[Any]] = {
        name: [row.pictures[at] for row in rows] for at, name in enumerate(work.source.columns)
    }
    labels, keys = [row.label for row in rows], [row.key for row in rows]
    encoded = encode(pictures, labels, keys, work.block_rows)
    content = memoryview(encoded.content)
    shard = Shard(
        name=work.shard,
        rows=len(rows),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        offsets=encoded.offsets,
        checks=encoded.checks,
    )
    return shard, content
