"""The two sides of an evaluation, real images and a generator's: their features, taken in pieces, anywhere.

Inputs and real images follow from a seed, so a side has the same features however many tasks take them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import torch
from torch import Tensor

from pipelines.loading.loader import Loader, LocalBatch, open_loader
from pipelines.quality.features import Extractor, Features
from pipelines.storage.location import Location
from service.configuration.config import Run
from service.configuration.reading import from_tree
from service.generator import Generator
from service.models.pixels import to_model
from service.replicas.collectives import OneReplica
from service.replicas.global_batch import GlobalBatch
from service.tasks import Samples

W = TypeVar("W")
R = TypeVar("R")
Tasks = Callable[[Callable[[W], R], list[W]], Iterator[tuple[int, R]]]
#: What is shown to a network at once. It is part of the protocol: other sizes round otherwise.
BATCH = 100
_BATCHES_A_TASK = 5


@dataclass(frozen=True)
class Side:
    """One side of an evaluation, as every task is given it: real images, or those of a generator.

    Attributes:
        data: where each data set lies, and its version.
        generator: None for the real side.
        whole: real images are those of the data set one by one, as they lie in it; else in the order of training.
    """

    run: dict[str, Any]
    data: tuple[tuple[str, int], ...]
    extractor: Extractor
    generator: Generator | None = None
    whole: bool = False


@dataclass(frozen=True)
class Work:
    """Some batches of a side, which lies in Ray's object store, or is at hand."""

    side: Any
    batches: range
    size: int


def in_turn(function: Callable[[W], R], works: list[W]) -> Iterator[tuple[int, R]]:
    """Does the work in this process."""
    return ((number, function(work)) for number, work in enumerate(works))


def features_of_side(side: Side, count: int, tasks: Tasks[Work, Features]) -> Iterator[Features]:
    """The features of the first `count` images of a side, in their order, in parts."""
    size = min(count, BATCH)
    batches = -(-count // size)
    given = ray.put(side) if ray.is_initialized() else side
    works = [
        Work(given, range(start, min(start + _BATCHES_A_TASK, batches)), size)
        for start in range(0, batches, _BATCHES_A_TASK)
    ]
    return _in_order(tasks(features_of, works))


def joined(parts: Iterable[Features]) -> Features:
    """Parts, one after the other, as one."""
    values, classes, logits = zip(*parts, strict=True)
    return Features(torch.cat(values), torch.cat(classes), None if logits[0] is None else torch.cat(logits))


def features_of(work: Work) -> Features:
    """The features of some batches of a side. Of real images nobody asks for logits."""
    side: Side = ray.get(work.side) if isinstance(work.side, ray.ObjectRef) else work.side
    run = from_tree(side.run)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    extractor = side.extractor.to(device)
    found = []
    for images in _images(side, run, work):
        seen = Features(*extractor(images.to(device)))
        told = None if side.generator is None or seen.logits is None else seen.logits.cpu()
        found.append(Features(seen.values.cpu(), seen.classes.cpu(), told))
    return joined(found) if found else Features(torch.empty(0, 0), torch.empty(0))


def _in_order(found: Iterable[tuple[int, R]]) -> Iterator[R]:
    """What is found by its number, by and by; what comes too soon is held back."""
    early, following = dict[int, R](), 0
    for number, part in found:
        early[number] = part
        while following in early:
            yield early.pop(following)
            following += 1


def _images(side: Side, run: Run, work: Work) -> Iterator[Tensor]:
    """(N, C, H, W) uint8, batch by batch."""
    if side.generator is not None and not (run.task.translates or run.task.several):
        for number in work.batches:
            yield side.generator.images(_drawn(run, side.generator, number, work.size))
        return
    seeds = [run.order_seed(at) + run.evaluation.seed for at in range(len(side.data))]
    loaders = [
        open_loader(Location.of(uri), run.data.transform, work.size, seed, version=version)
        for (uri, version), seed in zip(side.data, seeds, strict=True)
    ]
    try:
        for number in work.batches:
            if side.generator is None:
                real = _real(run, loaders, work, number, side.whole)
                if len(real):  # Of data sets that are read as they lie, one may end before another.
                    yield real
                continue
            first, *others = [loader.batch(number) for loader in loaders]
            yield _made(run, side.generator, work, number, _floats(side.generator, first, others))
    finally:
        for loader in loaders:
            loader.close()


def _made(run: Run, generator: Generator, work: Work, number: int, real: Samples) -> Tensor:
    """What is generated of real images, or of their labels."""
    if run.task.translates:
        count, cpu = len(real.images), torch.device("cpu")
        return generator.images(run.task.examples(generator.network, run.evaluation.seed, count, cpu, real))
    return generator.images(run.task.told(_drawn(run, generator, number, work.size), real))


def _real(run: Run, loaders: Sequence[Loader], work: Work, number: int, whole: bool) -> Tensor:
    """What generated images should be like."""
    if whole:
        start = number * work.size
        first, *others = [loader.rows(start, start + work.size) for loader in loaders]
    else:
        first, *others = [loader.batch(number) for loader in loaders]
    return run.task.target(Samples(first.images, first.labels, first.paired, tuple(other.images for other in others)))


def _drawn(run: Run, generator: Generator, number: int, size: int) -> dict[str, Tensor]:
    """The noise of a batch."""
    batch = GlobalBatch(size, 1, run.evaluation.seed, OneReplica(), torch.device("cpu"), generator.dtype)
    batch.start(number, 0, size)
    return run.task.draw(generator.network, batch)


def _floats(generator: Generator, first: LocalBatch, others: Sequence[LocalBatch]) -> Samples:
    """Real samples, as networks see them."""

    def floats(images: Tensor) -> Tensor:
        return to_model(images, generator.dtype)

    paired = None if first.paired is None else floats(first.paired)
    return Samples(floats(first.images), first.labels, paired, tuple(floats(other.images) for other in others))
