"""What a person asks of a data set: what is in it, and whether it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rich.table import Table

from pipelines.data.shards import Described, Manifest, Shard
from pipelines.storage.location import Location
from pipelines.storage.ranged_reads import threads_for

_PIECE_BYTES = 1 << 23


def table(manifest: Manifest, folder: Location) -> Table:
    """A manifest, for a person."""
    shown = Table(title=f"{folder}, version {manifest.version}", show_header=False, title_justify="left")
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    more = " ..." if len(manifest.classes) > 20 else ""
    shape = "x".join(map(str, manifest.shape)) if manifest.shape else "as the source has them"
    rows = {
        "sources": "\n".join(manifest.sources),
        "images": f"{manifest.rows:,}, {manifest.stored}, {shape}",
        "columns": ", ".join(f"{name} ({kind})" for name, kind in manifest.fields.items()),
        "attributes" if manifest.several else "classes": ", ".join(manifest.classes[:20]) + more,
        "labels": _labels(manifest),
        "transform": ", ".join(f"{key}={_plain(value)}" for key, value in (manifest.transform or {}).items()),
        "shards": f"{len(manifest.shards):,}, {manifest.bytes / 1e6:,.1f} MB",
        "blocks": f"{sum(len(shard.checks) for shard in manifest.shards):,} of at most {manifest.block_rows:,} images",
        "lanes": f"{manifest.lanes}",
        "skipped": _counts(manifest.skipped) or "none",
        "converted": _counts(manifest.converted) or "none",
        "hash": manifest.hash,
    }
    for name, value in rows.items():
        if value:
            shown.add_row(name, value)
    return shown


def _plain(value: Described) -> str:
    """As it is written on a command line."""
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _labels(manifest: Manifest) -> str:
    if manifest.labels is None or not manifest.labels.rows or manifest.several:
        return ""
    some = "" if manifest.labels.rows == manifest.rows else f", of {manifest.labels.rows:,} of the images"
    return f"0 to {manifest.labels.highest:,}{some}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())


def damages(folder: Location, manifest: Manifest, progress: Callable[[int], None] = lambda size: None) -> list[str]:
    """Read every shard; returns what is wrong with each that is damaged, one line a shard.

    Args:
        progress: is called with how many more bytes have been read.
    """
    with ThreadPoolExecutor(threads_for(folder)) as threads:
        found = threads.map(lambda shard: _damage(folder, shard, progress), manifest.shards)
        return [line for line in found if line is not None]


def _damage(folder: Location, shard: Shard, progress: Callable[[int], None]) -> str | None:
    digest, size = hashlib.sha256(), 0
    try:
        with (folder / shard.name).stream() as stream:
            while piece := stream.read(_PIECE_BYTES):
                digest.update(piece)
                size += len(piece)
                progress(len(piece))
    except OSError as error:
        return f"{folder / shard.name}: cannot be read: {error}"
    if size != shard.bytes:
        return f"{folder / shard.name}: has {size} bytes, the manifest says {shard.bytes}"
    if digest.hexdigest() != shard.sha256:
        return f"{folder / shard.name}: has sha256 {digest.hexdigest()}, the manifest says {shard.sha256}"
    return None
