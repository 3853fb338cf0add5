"""Real samples on their way into a step: read, put on the device, augmented, and faded while networks grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipelines.loading.disk_cache import DiskCache
from pipelines.loading.loader import Loader, LocalBatch, Reading, open_loader
from pipelines.storage.location import Location
from service.configuration.config import Run
from service.models.growth import faded
from service.models.pixels import to_model
from service.replicas.accelerators import Accelerator
from service.replicas.global_batch import GlobalBatch
from service.tasks import Samples, Task


def open_loaders(run: Run, accelerator: Accelerator, tell: Callable[[str, int], None]) -> list[Loader]:
    """This replica's loaders, one for each data set of the run, which the driver has found.

    Args:
        tell: hears what cannot be read, and how many rows are replaced for it.
    """
    options = run.loader
    reading = Reading(
        memory_bytes=options.memory_bytes // run.task.data_sets,
        decode_threads=options.decode_threads or torch.get_num_threads(),
        pinned=accelerator.device.type == "cuda",
        damaged=run.data.damaged,
        tell=tell,
    )
    cache = DiskCache(Path(options.cache).expanduser(), options.cache_bytes) if options.cache else None
    return [
        open_loader(
            Location.of(data.shards or ""),
            run.data.transform,
            run.batch.size,
            run.order_seed(number),
            accelerator.reads_as,
            accelerator.world_size,
            version=data.version,
            cache=cache,
            reading=reading,
            cells=run.cells,
        )
        for number, data in enumerate([run.data, *run.data.domains])
    ]


class RealSamples:
    """This replica's rows of every batch of real samples.

    Args:
        batch: is opened with each batch that is read.
        loaders: this replica's, one for each data set of the task.

    Attributes:
        opened: the samples of the batch that was opened last.
    """

    opened: Samples

    def __init__(self, run: Run, accelerator: Accelerator, batch: GlobalBatch, loaders: Sequence[Loader]) -> None:
        self._run, self._accelerator, self._batch, self._loaders = run, accelerator, batch, loaders
        self._last_stage = run.network.last_stage(run.image)

    def open(self, step: int, number: int) -> Samples:
        """Read the batch of that number of a step's, as the part of the step that it is for."""
        if number:
            self._accelerator.finish()  # A compiler then meets the same work for each of a step's batches.
        at = self._run.scheme.batches_before(step) + number
        local = [loader.batch(at) for loader in self._loaders]  # All have as many lanes, so their rows are the same.
        _check_labels(local[0].labels, self._run.task)
        first = local[0]
        cells = first.cells if self._run.exact else ()  # Elsewhere lanes are of no interest, and change at every step.
        self._batch.start(step, first.first_row, len(first.images), part=number, cells=cells)
        samples = self._run.augmentation.of(self._samples(local, self._accelerator.to_device), self._batch)
        if self._last_stage:
            samples = samples._replace(images=faded(samples.images, self.stage(step), self._last_stage))
        self.opened = samples
        return samples

    def stage(self, step: int) -> float:
        """How far growing networks are to have grown at `step`: a function of the images seen before it."""
        seen = self._run.scheme.batches_before(max(step, 0)) * self._run.batch.size
        return self._run.network.stage(self._run.image, seen)

    def some(self, count: int) -> Samples:
        """The same `count` (at most) samples at every call, on the device, whole on every process."""
        device = self._accelerator.device
        return self._samples([loader.some(count) for loader in self._loaders], lambda read: read.to(device))

    def targets(self, count: int) -> Tensor:
        """What generated images should be like: `some` of them, (N, C, H, W) uint8, on the host."""
        first, *others = [loader.some(count) for loader in self._loaders]
        return self._run.task.target(
            Samples(first.images, first.labels, first.paired, tuple(other.images for other in others))
        )

    @property
    def hash(self) -> str:
        """Of the data sets' manifests."""
        return "+".join(loader.manifest.hash for loader in self._loaders)

    @property
    def waited_seconds(self) -> float:
        return sum(loader.waited_seconds for loader in self._loaders)

    def close(self) -> None:
        for loader in self._loaders:
            loader.close()

    def _samples(self, local: Sequence[LocalBatch], place: Callable[[Tensor], Tensor]) -> Samples:
        def floats(images: Tensor) -> Tensor:
            return to_model(place(images), self._run.torch_dtype)

        first, *others = local
        return Samples(
            images=floats(first.images),
            labels=place(first.labels),
            paired=None if first.paired is None else floats(first.paired),
            others=tuple(floats(other.images) for other in others),
        )


def _check_labels(labels: Tensor, task: Task) -> None:
    """Raise ValueError unless labels, on the host, are the task's, if it takes any."""
    read, count = labels.numpy(), 2 if task.several else task.labels
    if count and len(read) and not 0 <= read.min() <= read.max() < count:
        wrong = read[(read < 0) | (read >= count)][0]
        raise ValueError(
            f"a sample of the data set has {'no label' if wrong < 0 else f'label {wrong}'}; the task wants labels "
            f"0 to {count - 1}"
        )
