"""How near a generator's images are to a data set's: features of both sides, taken by tasks, and compared.

What is asked of the real images is computed once for each version of the data set, and kept beside it. Inputs and
real images follow from a seed, so the same model has the same figures, however many tasks there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import ray
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipelines.components import ConfigError, name_of
from pipelines.data.shards import Manifest
from pipelines.loading.loader import LocalBatch, open_loader
from pipelines.quality.features import Extractor, FeatureNetwork, Reference
from pipelines.quality.features.classifier import Classifier
from pipelines.quality.features.inception import Inception
from pipelines.quality.figures import Figures
from pipelines.quality.metrics import NEIGHBOURS, class_coverage, fid, kid, neighbourhoods
from pipelines.storage.location import Location
from service.configuration.config import Run, storage_root
from service.configuration.reading import from_tree
from service.configuration.tree import dump
from service.generator import Generator
from service.models.networks import ImageShape
from service.models.pixels import to_model
from service.replicas.collectives import OneReplica
from service.replicas.global_batch import GlobalBatch
from service.runs.driver.datasets import prepare_all
from service.tasks import Samples
from service.tracking.run_page import Input

W = TypeVar("W")
R = TypeVar("R")
Tasks = Callable[[Callable[[W], R], list[W]], Iterator[tuple[int, R]]]
#: What is shown to a network at once. It is part of the protocol: other sizes round otherwise.
_BATCH = 100
_BATCHES_A_TASK = 5
#: KID needs two images for each of its ten blocks.
_FEWEST = 20


class Features(NamedTuple):
    """(N, D) features, and (N,) classes, -1 where they are not told."""

    values: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Side:
    """One side of an evaluation, as every task is given it: real images, or those of a generator.

    Attributes:
        data: where each data set lies, and its version.
        generator: None for the real side.
    """

    run: dict[str, Any]
    data: tuple[tuple[str, int], ...]
    extractor: Extractor
    generator: Generator | None


@dataclass(frozen=True)
class Work:
    """Some batches of a side, which lies in Ray's object store, or is at hand."""

    side: Any
    batches: range
    size: int


def in_turn(function: Callable[[W], R], works: list[W]) -> Iterator[tuple[int, R]]:
    """Does the work in this process."""
    return ((number, function(work)) for number, work in enumerate(works))


@dataclass(frozen=True)
class Protocol:
    """How models are judged on a run's data; figures may be compared where `fingerprint` is the same."""

    run: Run
    data: tuple[tuple[str, int], ...]
    reference: Reference
    extractor: Extractor
    samples: int
    fingerprint: str

    @property
    def input(self) -> Input:
        """The data set, as MLflow shows it."""
        return Input.of(self.reference.folder, self.reference.manifest, "evaluation")


def protocol(run: Run, console: Console) -> Protocol:
    """The protocol of a run's data as they are now, or in the version that the run names.

    Raises:
        ConfigError: the data, or the feature network's weights, cannot be had.
    """
    found = prepare_all(run, console)
    manifests = [manifest for _, manifest in found]
    folder = Location.of(found[0][0])
    kept = Location.of(storage_root(run.evaluation.cache)) if run.evaluation.cache else folder / "evaluations"
    reference = Reference(folder, manifests[0], run.data.transform, kept)
    features = run.evaluation.features or _suited(reference)
    extractor, opened = features.open(reference, lambda text: console.print(text, highlight=False, soft_wrap=True))
    samples = samples_of(run, manifests)
    return Protocol(
        run=run,
        data=tuple((uri, manifest.version) for uri, manifest in found),
        reference=reference,
        extractor=extractor,
        samples=samples,
        fingerprint=fingerprint_of(run, manifests, opened, samples),
    )


def evaluate(judged: Protocol, generator: Generator, tasks: Tasks[Work, Features] = in_turn) -> Figures:
    """Compare a generator's images with the data.

    Args:
        tasks: calls a function for every piece of work: here, or on Ray.

    Raises:
        ConfigError: the generator makes images of another shape.
    """
    run = judged.run
    if generator.image != run.image:
        raise ConfigError(f"the model makes images of {_shape(generator.image)}, and the data are {_shape(run.image)}")
    if type(generator.task) is not type(run.task):
        names = name_of(generator.task), name_of(run.task)
        raise ConfigError(f"the model's task is {names[0]}, and the recipe's {names[1]}")
    sides = [Side(dump(run), judged.data, judged.extractor, one) for one in (None, generator)]
    real = _reference(judged, lambda: _features(sides[0], judged.samples, tasks))
    return compared(real, _features(sides[1], judged.samples, tasks), judged.fingerprint)


def _shape(image: ImageShape) -> str:
    return "x".join(map(str, image))


def _suited(reference: Reference) -> FeatureNetwork:
    """A classifier of the data set's own labels where it has some, else Inception."""
    loader = open_loader(reference.folder, reference.transform, 1, 0, version=reference.manifest.version)
    labels = loader.some(256).labels
    loader.close()
    return Classifier() if int(labels.min()) >= 0 and len(labels.unique()) > 1 else Inception()


def compared(real: Features, made: Features, fingerprint: str) -> Figures:
    """Every figure, of equally many features on each side."""
    near, apart = neighbourhoods(real.values, made.values), kid(real.values, made.values)
    known = bool((real.classes >= 0).all())
    return Figures(
        fingerprint=fingerprint,
        samples=len(real.values),
        fid=fid(real.values, made.values),
        kid=apart.value,
        kid_error=apart.error,
        **near._asdict(),
        class_coverage=class_coverage(real.classes, made.classes) if known else None,
    )


def samples_of(run: Run, manifests: Sequence[Manifest]) -> int:
    """How many images are compared on each side: what was asked for, or as many as there are.

    Raises:
        ConfigError: they are too few.
    """
    count = min(run.evaluation.samples, *(manifest.rows for manifest in manifests))
    count -= count % min(count, _BATCH)
    if count < _FEWEST:
        raise ConfigError(f"evaluation.samples: {count} images cannot be compared; {_FEWEST} are the least")
    return count


def fingerprint_of(run: Run, manifests: Sequence[Manifest], features: str, samples: int) -> str:
    """Names everything that figures depend on, beside the model: they are compared only if it is equal."""
    described = {
        "features": features,
        "manifests": [manifest.hash for manifest in manifests],
        # Pictures of a time before there was a background have none.
        "transform": run.data.transform.model_dump(exclude=set() if manifests[0].shown else {"background"}),
        "task": name_of(run.task),
        "samples": samples,
        "seed": run.evaluation.seed,
        "neighbours": NEIGHBOURS,
        "batch": _BATCH,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _reference(judged: Protocol, compute: Callable[[], Features]) -> Features:
    """The real side's features, which are kept with the data set."""
    file = judged.reference.kept / f"reference-{judged.fingerprint}.safetensors"
    if file.exists():
        try:
            found = load(file.read())
            return Features(found["values"], found["classes"])
        except (SafetensorError, KeyError) as error:
            raise ConfigError(f"{file} is damaged ({type(error).__name__}); delete it, and it is made anew") from error
    features = compute()
    file.create(save(features._asdict()))
    return features


def _features(side: Side, samples: int, tasks: Tasks[Work, Features]) -> Features:
    size = min(samples, _BATCH)
    batches = samples // size
    given = ray.put(side) if ray.is_initialized() else side
    works = [
        Work(given, range(start, min(start + _BATCHES_A_TASK, batches)), size)
        for start in range(0, batches, _BATCHES_A_TASK)
    ]
    parts = dict(tasks(features_of, works))
    inorder = [parts[number] for number in range(len(works))]
    return Features(torch.cat([part.values for part in inorder]), torch.cat([part.classes for part in inorder]))


def features_of(work: Work) -> Features:
    """The features of some batches of a side."""
    side: Side = ray.get(work.side) if isinstance(work.side, ray.ObjectRef) else work.side
    run = from_tree(side.run)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    extractor = side.extractor.to(device)
    found = [extractor(images.to(device)) for images in _images(side, run, work)]
    return Features(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))


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
            first, *others = [loader.batch(number) for loader in loaders]
            if side.generator is None:
                yield _real(run, first, others)
                continue
            real, generator = _floats(side.generator, first, others), side.generator
            if run.task.translates:
                count, cpu = len(first.images), torch.device("cpu")
                yield generator.images(run.task.examples(generator.network, run.evaluation.seed, count, cpu, real))
            else:
                yield generator.images(run.task.told(_drawn(run, generator, number, work.size), real))
    finally:
        for loader in loaders:
            loader.close()


def _real(run: Run, first: LocalBatch, others: Sequence[LocalBatch]) -> Tensor:
    """What generated images should be like."""
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
