"""A source -> shards and their manifest: in parallel, from wherever an earlier attempt was killed.

What goes into which shard follows from the source's index alone, so that the result does not depend on how
many tasks there were, or how often they were killed. Every shard is followed by a note about it; the manifest
comes last, and only if there is none: nobody sees half a data set, and two ingests cannot mix.
"""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from pipelines.components import ConfigError
from pipelines.data.attributes import attribute_names
from pipelines.data.images import Transform
from pipelines.data.plan import Options, Plan, with_labels, without_duplicates
from pipelines.data.shard_writer import Part, Skipped, Work, write_shard
from pipelines.data.shards import Labels, Manifest, read_keys, read_manifest, versions
from pipelines.data.sources import Source
from pipelines.storage.location import PARTIAL, Location

#: Nobody takes so long to write a file.
_ABANDONED_SECONDS = 3600.0

Report = Callable[[int, int], None]
#: Does all the work, in any order, with progress in samples: in this process, or on a cluster.
Tasks = Callable[[list[Work], Callable[[int], None]], Iterator[Part]]


def here(works: list[Work], progress: Callable[[int], None]) -> Iterator[Part]:
    """Do the work in this process, one shard after the other."""
    for work in works:
        yield write_shard(work, progress)


def ingest(
    source: Source,
    transform: Transform,
    target: Location,
    options: Options = Options(),  # noqa: B008
    tasks: Tasks = here,
    report: Report = lambda done, samples: None,
) -> Manifest:
    """Write `source` to `target`. The same ingest again goes on where it was stopped, or finds its work done.

    Args:
        report: is called with how many samples have been read, of how many.

    Raises:
        ConfigError: the source is missing, empty, or mostly no pictures; the target holds another data set.
        OSError: source or target fail on the way.
    """
    before = read_manifest(target) if versions(target) else None
    found = source.survey()
    made = (before.version + 1, before.shown) if before else (1,)
    plan = Plan(source, transform, target, options, found.fingerprint, *made)
    if before is not None and _is_done(before, plan):
        return before
    if options.append and before is None:
        raise ConfigError(f"data.shards: {target} holds no data set to append to")
    if before is not None:
        _check_alike(before, plan)
    _claim(plan)
    try:
        if versions(target)[-1:] != ([before.version] if before else []):
            raise ConfigError(f"data.shards: another ingest wrote a version of {target} in the meantime; try again")
        return _write(plan, found.index, before, tasks, report)
    except ConfigError:  # It cannot go on as it is: others may try.
        plan.claim.delete()
        raise


def _write(
    plan: Plan, index: Callable[[], pa.Table], before: Manifest | None, tasks: Tasks, report: Report
) -> Manifest:
    kept, duplicates = without_duplicates(index(), read_keys(plan.target, before))
    limit = _Limit(plan.options.skip_limit, len(kept) + duplicates.count, plan.source)
    if before and len(kept):
        _check_labels(before, kept, plan.target)
    several = bool(attribute_names(kept))
    kept, classes = with_labels(kept, before.classes if before else ())
    block_rows = before.block_rows if before else plan.block_rows(kept)
    found = {"duplicate": duplicates} if duplicates.count else {}
    twice = Part(name="", shard=None, samples=0, skipped=found, converted={}, labels=Labels())
    limit.count(twice)
    parts = [twice, *_do(list(plan.works(kept, block_rows)), plan.target, tasks, report, limit)]
    manifest = _manifest(plan, parts, before, classes, several, block_rows)
    if plan.source.fingerprint() != plan.fingerprint:
        raise ConfigError(f"{plan.source.describe()} changed while it was being read; ingest it again")
    _publish(manifest, _summed(parts), plan)
    return manifest


def _manifest(
    plan: Plan, parts: list[Part], before: Manifest | None, classes: tuple[str, ...], several: bool, block_rows: int
) -> Manifest:
    """The new version, which shares everything of the one before."""
    shards = tuple(part.shard for part in parts if part.shard)
    rows = sum(shard.rows for shard in shards)
    if rows == 0:
        raise ConfigError(f"{plan.source.describe()}: no {'new ' if before else ''}pictures found")
    decoded = plan.options.stored == "decoded"
    skipped = {kind: found.count for kind, found in _summed(parts).items()}
    return Manifest(
        version=plan.version,
        sources=(*(before.sources if before else ()), plan.source.describe()),
        plan=plan.identity,
        stored=plan.options.stored,
        transform=(before.transform if before else plan.transform.model_dump()) if decoded else None,
        shape=plan.transform.shape if decoded else None,
        shown=plan.shown,
        columns=plan.source.columns,
        classes=classes,
        several=several,
        labels=_all_labels([before.labels if before else Labels(), *(part.labels for part in parts)]),
        lanes=before.lanes if before else min(plan.options.lanes, rows),
        block_rows=block_rows,
        skipped=_added(before.skipped if before else {}, skipped),
        converted=_added(before.converted if before else {}, *(part.converted for part in parts)),
        shards=(*(before.shards if before else ()), *shards),
    )


def _all_labels(parts: list[Labels | None]) -> Labels | None:
    """None if it is not known of all parts."""
    known = [part for part in parts if part is not None]
    return functools.reduce(Labels.plus, known) if len(known) == len(parts) else None


def _is_done(latest: Manifest, plan: Plan) -> bool:
    """Whether there is nothing left to do. Raises ConfigError if it must not be done here."""
    for version in versions(plan.target):
        if read_manifest(plan.target, version).plan == plan.identity:
            _clear(replace(plan, version=version))
            return True
    if not plan.options.append:
        raise ConfigError(
            f"data.shards: {plan.target} holds another data set ({', '.join(latest.sources)}); "
            "name another folder, or add to it with --append"
        )
    return False


def _check_alike(before: Manifest, plan: Plan) -> None:
    """Raise ConfigError if what is to be appended does not fit what is there."""
    transform = plan.transform.model_dump() if plan.options.stored == "decoded" else None
    there, new = (before.stored, before.columns), (plan.options.stored, plan.source.columns)
    if there != new or (before.transform is not None and not plan.transform.made(before.transform)):
        raise ConfigError(
            f"data.shards: {plan.target} has (stored, columns, transform) = {(*there, before.transform)}; "
            f"{(*new, transform)} cannot be appended to it"
        )


def _check_labels(before: Manifest, added: pa.Table, target: Location) -> None:
    """Raise ConfigError if what is to be appended says other things of its pictures than what is there."""
    attributes, there = attribute_names(added), ", ".join(before.classes[:10])
    if before.several or attributes:
        if not before.several or attributes != before.classes:
            raise ConfigError(
                f"data.shards: {target} has {f'the attributes {there}' if before.several else 'no attributes'}, and "
                f"what is to be added has {', '.join(attributes[:10]) or 'none'}; ingest all into a new folder"
            )
    elif before.classes and "class" not in added.column_names:
        raise ConfigError(
            f"data.shards: {target} has the classes {there}, and what is to be added says none, or numbers; put it "
            "into folders of these names, or ingest all into a new folder"
        )


def _claim(plan: Plan) -> None:
    """Say what is being ingested. Raises ConfigError if something else is."""
    if not plan.claim.create(json.dumps({"plan": plan.identity, "source": plan.source.describe()}).encode()):
        other = json.loads(plan.claim.read())
        if other["plan"] != plan.identity:
            raise ConfigError(
                f"data.shards: {plan.target} has an unfinished ingest of {other['source']}, with other options or from "
                f"before the source changed; finish that ingest, or delete {plan.claim} to abandon it"
            )


@dataclass
class _Limit:
    """Stops an ingest that skips too much."""

    share: float
    samples: int
    source: Source
    lost: int = 0

    def count(self, part: Part) -> None:
        self.lost += sum(found.count for found in part.skipped.values())
        if self.lost > self.share * self.samples:
            worst = max(part.skipped.items(), key=lambda item: item[1].count, default=("duplicate", Skipped()))
            example = f", such as {worst[1].examples[0]}" if worst[1].examples else ""
            raise ConfigError(
                f"{self.source.describe()}: {self.lost} of {self.samples} samples cannot be used "
                f"({worst[0]}{example}), more than skip_limit={self.share:g} allows"
            )


def _do(works: list[Work], target: Location, tasks: Tasks, report: Report, limit: _Limit) -> list[Part]:
    """The parts, in order: those that were done before are not done again."""
    total = sum(len(work.part) for work in works)
    done = {part.name: part for work in works if (part := _noted(target, work)) is not None}
    for part in done.values():
        limit.count(part)
    finished = sum(part.samples for part in done.values())
    report(finished, total)

    def progress(samples: int) -> None:
        nonlocal finished
        finished += samples
        report(finished, total)

    for part in tasks([work for work in works if work.note not in done], progress):
        limit.count(part)
        if not _is_there(target, part):
            raise ConfigError(
                f"data.shards: {part.shard.name if part.shard else part.name} is missing or incomplete in {target}, "
                "although a task wrote it; on several machines, use a folder or a bucket that all of them share"
            )
        done[part.name] = part
    return [done[work.note] for work in works]


def _noted(target: Location, work: Work) -> Part | None:
    """What the note says of a shard, if it is there, and the shard as well."""
    try:
        part = Part.model_validate_json((target / work.note).read())
    except (FileNotFoundError, ValueError):  # Cut short by a machine that went down.
        return None
    return part if _is_there(target, part) else None


def _is_there(target: Location, part: Part) -> bool:
    """Whether the shard lies where this process looks, and is whole."""
    return part.shard is None or (target / part.shard.name).size() == part.shard.bytes


def _summed(parts: Iterable[Part]) -> dict[str, Skipped]:
    total: dict[str, Skipped] = {}
    for part in parts:
        for kind, found in part.skipped.items():
            total[kind] = total.get(kind, Skipped()).plus(found)
    return dict(sorted(total.items()))


def _added(*counts: Mapping[str, int]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def _publish(manifest: Manifest, skipped: dict[str, Skipped], plan: Plan) -> None:
    """Write the report, then the manifest, and clear away what only an unfinished ingest needs."""
    target = plan.target
    if skipped:
        report = {kind: found.model_dump() for kind, found in skipped.items()}
        (target / f"skipped-{manifest.version:05}.json").write(json.dumps(report, indent=2).encode())
    if not (target / manifest.name).create(manifest.model_dump_json(indent=2).encode()):
        other = read_manifest(target, manifest.version)
        if other.hash != manifest.hash:
            raise ConfigError(f"data.shards: another ingest wrote {target / manifest.name} in the meantime; try again")
    _clear(plan)


def _clear(plan: Plan) -> None:
    """Remove what only an unfinished ingest needs."""
    (plan.target / plan.notes).delete()
    plan.claim.delete()
    for file in plan.target.files():
        # What a process left that was killed; a younger one may belong to the same ingest at work elsewhere.
        if file.name.endswith(PARTIAL) and time.time() - file.changed / 1e9 > _ABANDONED_SECONDS:
            (plan.target / file.name).delete()
