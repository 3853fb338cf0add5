"""One replica's part of a run: its networks, its rows of every batch, one step at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from pipelines.loader import Loader, LocalBatch
from service import optimizers
from service.accelerators import Accelerator
from service.batch import GlobalBatch
from service.checkpoints import CheckpointError, State, network_weights
from service.components import name_of
from service.config import Run, dump
from service.divergence import Diverged
from service.ema import Average
from service.generator import AVERAGE
from service.growth import begins, faded, grow
from service.layers import follow_global_batch
from service.pixels import to_image, to_model
from service.pool import Pools
from service.precision import in_bfloat16
from service.schemes import Parts
from service.tasks import Samples

#: Images that are generated in one call, for people to look at.
_AT_ONCE = 64


class Replica:
    """Networks, batch and scheme of a run on one device.

    Args:
        run: the resolved configuration.
        accelerator: this replica's.
        loaders: this replica's, one for each data set of the task.
    """

    def __init__(self, run: Run, accelerator: Accelerator, *loaders: Loader) -> None:
        self._run, self._accelerator, self._loaders = run, accelerator, loaders
        self._batch = GlobalBatch(
            run.batch.size,
            run.batch.shards,
            run.seed,
            accelerator.collective,
            accelerator.device,
            run.torch_dtype,
            partial(accelerator.rows, most=max(loader.most for loader in loaders)),
        )
        self._pools = Pools(run.task.pool, self._batch)
        self._seats = run.critics.seats(run.task.games)
        self._last_stage = run.network.last_stage(run.image)
        self._stage: float | None = None
        self.generator, self.critics = self._networks()
        self._parts = Parts(
            network=run.network,
            task=run.task,
            objective=run.objective,
            regularizers=run.regularizers,
            optimizer=run.optimizer,
            image=run.image,
            generator=self.generator,
            critics=self.critics,
            seats=self._seats,
            terms={name_of(term): term.build(accelerator.device, run.torch_dtype) for term in run.terms},
            batch=self._batch,
            pools=self._pools,
            accelerator=accelerator,
        )
        self._stepper = run.scheme.stepper(self._parts)
        self._average = Average(run.ema, self.generator, self._batch) if run.ema else None

    @property
    def identity(self) -> dict[str, str]:
        """What a checkpoint must share with this run for it to go on from there."""
        return {"recipe": self._run.recipe_hash, "data set": "+".join(loader.manifest.hash for loader in self._loaders)}

    def step(self, step: int) -> dict[str, Tensor]:
        """Train on the batch of `step`; returns batch-global losses and weights, on the device."""
        for optimizer in self._stepper.optimizers.values():
            self._run.optimizer.schedule(optimizer, step)
        if self._last_stage:
            self._grow(step)
        metrics = self._stepper.step(step, lambda number: self._open(step, number))
        if self._average:
            self._average.follow(step)
        self._accelerator.finish()
        return metrics

    def diversity(self) -> Tensor:
        """How much the last step's images differ among themselves, as a share of how much the real ones do.

        The mean over pixels of the standard deviation over the global batch, 0-dimensional.
        """
        real = self._run.task.target(self._real)
        return self._spread(self._stepper.fakes) / self._spread(real).clamp_min(1e-6)

    def divergence(self) -> dict[str, Tensor]:
        """By term, the first step at which its loss was not finite, or -1; on the device."""
        return self._stepper.divergence.first_steps()

    def verdict(self) -> Diverged | None:
        """Whether the run can go on, looked at closely: waits for the device."""
        found = self._stepper.divergence.verdict()
        if found is None:
            parameters = [*self.generator.parameters(), *self.critics.parameters()]
            sums = torch.stack([parameter.detach().abs().sum() for parameter in parameters])
            if not torch.isfinite(sums).all():
                found = Diverged(int(self._batch.step), ("gradient",))
        return found

    def generate(self, count: int, seed: int, shown: bool = False) -> Tensor:
        """Images (count, C, H, W), uint8, of inputs that depend on `seed` alone.

        No other replica takes part, but where the accelerator is `in_step`.

        Args:
            shown: with what a person should see beside them.
        """
        run, task = self._run, self._run.task
        real = self._samples([loader.some(count) for loader in self._loaders], self._same) if task.translates else None
        examples = task.examples(run.network, seed, count, self._accelerator.device, real)
        made, generator = [], self._average.network if self._average else self.generator
        with evaluating(generator):
            for start in range(0, len(next(iter(examples.values()))), _AT_ONCE):
                part = {name: values[start : start + _AT_ONCE].to(run.torch_dtype) for name, values in examples.items()}
                images = task.images(generator, part)
                made.append(to_image(task.shown(part, images) if shown else images))
        return torch.cat(made)

    def real_images(self, count: int) -> Tensor:
        """The same `count` (at most) real images, (N, C, H, W) uint8, at every call: what generated ones should be."""
        first, *others = [loader.some(count) for loader in self._loaders]
        return self._run.task.target(
            Samples(first.images, first.labels, first.paired, tuple(other.images for other in others))
        )

    def state(self, step: int) -> State:
        """Everything that continues, after `step` steps. All replicas take part; waits for the device."""
        rows = {name: self._batch.gather(values, at) for name, (at, values) in self._stepper.row_state().items()}
        return State(
            step=step,
            networks={
                f"{part}.{name}": value.detach().cpu().clone()
                for part, network in self._continuing().items()
                for name, value in network.state_dict().items()
            },
            optimizers={name: optimizers.state(optimizer) for name, optimizer in self._stepper.optimizers.items()},
            rows={name: value.cpu() for name, value in rows.items()},
            shared={name: value.cpu() for name, value in self._pools.state().items()},
            identity=self.identity,
            run=dump(self._run),
        )

    def restore(self, state: State) -> None:
        """Go on from `state`.

        A step is done first, and forgotten: DistributedDataParallel lays its buckets out anew after its first
        step, and the layout decides in which order a ring adds three or more gradients up.
        """
        last = max(state.step - 1, 0)  # The rows that are kept are those of the last step.
        if self._accelerator.collective.world_size > 1:
            self.step(last)
        for part, network in self._continuing().items():
            network.load_state_dict(network_weights(state, part))
        for name, optimizer in self._stepper.optimizers.items():
            optimizers.restore(optimizer, state.optimizers[name])
        self._open(last, self._run.scheme.batches(last) - 1)
        device, dtype = self._accelerator.device, self._run.torch_dtype
        self._stepper.restore_row_state({name: value.to(device, dtype) for name, value in state.rows.items()})
        self._pools.restore({name: value.to(device, dtype) for name, value in state.shared.items()})

    def begin_with(self, state: State) -> None:
        """Take over the networks of another run's state, before the first step.

        Raises:
            CheckpointError: they are other networks.
        """
        for part, network in self._continuing().items():
            weights = network_weights(state, part) or network_weights(state, "generator")
            try:
                network.load_state_dict(weights)
            except RuntimeError as error:
                raise CheckpointError(f"start_from: its {part} is another network than this run's") from error

    @property
    def waited_seconds(self) -> float:
        """How long steps have waited for data so far."""
        return sum(loader.waited_seconds for loader in self._loaders)

    def close(self) -> None:
        """Stop reading ahead."""
        for loader in self._loaders:
            loader.close()

    def _continuing(self) -> dict[str, nn.Module]:
        """The networks of a checkpoint, by name."""
        average = {AVERAGE: self._average.network} if self._average else {}
        return {"generator": self.generator, "critic": self.critics, **average}

    def _grow(self, step: int) -> None:
        """Let networks be as far as they are to be at `step`."""
        now, before = (
            self._run.network.stage(self._run.image, self._run.scheme.batches_before(max(at, 0)) * self._run.batch.size)
            for at in (step, step - 1)
        )
        self._stage = now
        for network in self._continuing().values():
            grow(network, now)
        if begins(now, before):
            for optimizer in self._stepper.optimizers.values():
                optimizer.state.clear()

    def _open(self, step: int, number: int) -> Samples:
        """Read the batch of that number of a step's, as the part of the step that it is for."""
        if number:
            self._accelerator.finish()  # A compiler then meets the same work for each of a step's batches.
        at = self._run.scheme.batches_before(step) + number
        local = [loader.batch(at) for loader in self._loaders]  # All have as many lanes, so their rows are the same.
        _check_labels(local[0].labels, self._run.task.labels)
        self._batch.start(step, local[0].first_row, len(local[0].images), part=number)
        self._real = self._run.augmentation.of(self._samples(local, self._accelerator.to_device), self._batch)
        if self._stage is not None:
            images = faded(self._real.images, self._stage, self._last_stage)
            self._real = self._real._replace(images=images)
        return self._real

    def _same(self, samples: Tensor) -> Tensor:
        """Samples that every process has read, on the device."""
        return samples.to(self._accelerator.device)

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

    def _networks(self) -> tuple[nn.Module, nn.ModuleDict]:
        """Networks whose first weights depend on the seed alone."""
        digest = hashlib.blake2b(f"{self._run.seed}/weights".encode(), digest_size=8).digest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest, "little") >> 1)
            run = self._run
            generator = run.task.generator(run.network, run.image)
            critics = run.critics.critics(run.task, run.network, run.image)
            for regularizer in self._run.regularizers:
                regularizer.prepare(critics)
        place = self._accelerator.device, self._run.torch_dtype
        generator = follow_global_batch(generator, self._batch, "generator")
        follow_global_batch(critics, self._batch, "critic")
        if run.dtype == "bfloat16":
            in_bfloat16(generator)
            in_bfloat16(critics)
        return generator.to(*place), critics.to(*place)

    def _spread(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        means = self._batch.group_means(torch.cat([pixels, pixels.square()], 1))
        first, second = means.mean(0).chunk(2)
        return (second - first.square()).clamp_min(0).sqrt().mean()


def _check_labels(labels: Tensor, count: int) -> None:
    """Raise ValueError unless labels, on the host, are all of 0 .. count - 1; any will do if count is 0."""
    if count and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < count:
        wrong = labels[(labels < 0) | (labels >= count)][0]
        raise ValueError(
            f"a sample of the data set has {'no label' if wrong < 0 else f'label {wrong}'}; the task wants labels "
            f"0 to {count - 1}"
        )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within, the network uses its running statistics, drops nothing out and records no gradients."""
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train()
