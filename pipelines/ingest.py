"""A source -> shards and their manifest."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from pipelines.images import Transform
from pipelines.shards import MANIFEST, Images, Manifest, Shard, encode
from pipelines.sources import Sample, Source
from pipelines.storage import Location
from service.components import ConfigError

LANES = 64
ROWS_PER_SHARD = 8192
#: An ingest that must skip more than this share of its samples is not the data the user meant.
SKIP_LIMIT = 0.01


def ingest(
    source: Source,
    transform: Transform,
    target: Location,
    progress: Callable[[int], None] = lambda rows: None,
    rows_per_shard: int = ROWS_PER_SHARD,
) -> Manifest:
    """Write `source` to `target`, the manifest last, so that nobody sees half a data set.

    Args:
        progress: is called with the number of rows written so far.

    Raises:
        ConfigError: the source is missing, empty, or mostly no pictures.
    """
    skipped: Counter[str] = Counter()
    shards: list[Shard] = []
    pending: list[tuple[Images, Sample]] = []

    def flush() -> None:
        images = np.stack([image for image, _ in pending])
        content = encode(images, [sample.label for _, sample in pending], [sample.key for _, sample in pending])
        digest = hashlib.sha256(content).hexdigest()
        shard = Shard(name=f"shard-{len(shards):05}.arrow", rows=len(pending), bytes=len(content), sha256=digest)
        (target / shard.name).write(content)
        shards.append(shard)
        pending.clear()
        progress(sum(shard.rows for shard in shards))

    for item in _transformed(source, transform, skipped):
        pending.append(item)
        if len(pending) == rows_per_shard:
            flush()
    if pending:
        flush()
    rows = sum(shard.rows for shard in shards)
    lost = sum(skipped.values())
    if lost > SKIP_LIMIT * (rows + lost):
        raise ConfigError(f"{source.describe()}: {lost} of {rows + lost} samples are no pictures: {dict(skipped)}")
    if rows == 0:
        raise ConfigError(f"{source.describe()}: holds no pictures")
    manifest = Manifest(
        source=source.describe(),
        transform=transform.model_dump(),
        height=transform.size,
        width=transform.size,
        channels=transform.channels,
        lanes=min(LANES, rows),
        skipped=dict(skipped),
        shards=tuple(shards),
    )
    (target / MANIFEST).write(manifest.model_dump_json(indent=2).encode())
    return manifest


def _transformed(source: Source, transform: Transform, skipped: Counter[str]) -> Iterator[tuple[Images, Sample]]:
    for sample in source.samples():
        try:
            image = transform(sample.picture)
        except OSError:
            skipped["undecodable"] += 1
        else:
            yield image, sample
