"""One replica's part of a run: its networks, its rows of every batch, one step at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipelines.loader import Loader
from service.accelerators import Accelerator
from service.batch import GlobalBatch
from service.checkpoints import State, network_weights
from service.config import Run, dump
from service.divergence import Diverged
from service.layers import follow_global_batch
from service.pixels import to_image, to_model
from service.schemes import Parts
from service.tasks import Samples

#: Images that are generated in one call, for people to look at.
_AT_ONCE = 64


class Replica:
    """Networks, batch and scheme of a run on one device.

    Args:
        run: the resolved configuration.
        accelerator: this replica's.
        loader: this replica's.
    """

    def __init__(self, run: Run, accelerator: Accelerator, loader: Loader) -> None:
        self._run, self._accelerator, self._loader = run, accelerator, loader
        self._batch = GlobalBatch(
            run.batch.size, run.batch.shards, run.seed, accelerator.collective, accelerator.device, run.torch_dtype
        )
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
            batch=self._batch,
            accelerator=accelerator,
        )
        self._stepper = run.scheme.stepper(self._parts)

    @property
    def identity(self) -> dict[str, str]:
        """What a checkpoint must share with this run for it to go on from there."""
        return {"recipe": self._run.recipe_hash, "data set": self._loader.manifest.hash}

    def step(self, step: int) -> dict[str, Tensor]:
        """Train on the batch of `step`; returns batch-global losses and weights, on the device."""
        return self._stepper.step(step, lambda number: self._open(step, number))

    def diversity(self) -> Tensor:
        """How much the last step's images differ among themselves, as a share of how much the real ones do.

        The mean over pixels of the standard deviation over the global batch, 0-dimensional.
        """
        spread = [self._spread(images) for images in (self._stepper.fakes, self._real.images)]
        return spread[0] / spread[1].clamp_min(1e-6)

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

    def generate(self, count: int, seed: int) -> Tensor:
        """Images (count, C, H, W), uint8, from inputs that depend on `seed` alone. No other replica takes part."""
        task, dtype = self._run.task, self._run.torch_dtype
        examples = task.examples(self._run.network, seed, count, self._accelerator.device)
        made = []
        with evaluating(self.generator):
            for start in range(0, count, _AT_ONCE):
                part = {name: values[start : start + _AT_ONCE].to(dtype) for name, values in examples.items()}
                made.append(to_image(task.images(self.generator, part)))
        return torch.cat(made)

    def real_images(self, count: int) -> Tensor:
        """The same `count` (at most) real images, (N, C, H, W) uint8, at every call."""
        return self._loader.some(count)

    def state(self, step: int) -> State:
        """Everything that continues, after `step` steps. All replicas take part; waits for the device."""
        rows = {name: self._batch.gather(values, at) for name, (at, values) in self._stepper.row_state().items()}
        networks = {"generator": self.generator, "critic": self.critics}
        return State(
            step=step,
            networks={
                f"{part}.{name}": value.detach().cpu().clone()
                for part, network in networks.items()
                for name, value in network.state_dict().items()
            },
            optimizers={name: optimizer.state_dict() for name, optimizer in self._stepper.optimizers.items()},
            rows={name: value.cpu() for name, value in rows.items()},
            identity=self.identity,
            run=dump(self._run),
        )

    def restore(self, state: State) -> None:
        """Go on from `state`.

        A step is done first, and forgotten: DistributedDataParallel lays its buckets out anew after its first
        step, and the layout decides in which order a ring adds three or more gradients up.
        """
        last = max(state.step - 1, 0)  # The rows that are kept are those of the last step.
        if self._accelerator.world_size > 1:
            self.step(last)
        self.generator.load_state_dict(network_weights(state, "generator"))
        self.critics.load_state_dict(network_weights(state, "critic"))
        for name, optimizer in self._stepper.optimizers.items():
            optimizer.load_state_dict(state.optimizers[name])
        self._open(last, self._run.scheme.batches(last) - 1)
        device, dtype = self._accelerator.device, self._run.torch_dtype
        self._stepper.restore_row_state({name: value.to(device, dtype) for name, value in state.rows.items()})

    @property
    def waited_seconds(self) -> float:
        """How long steps have waited for data so far."""
        return self._loader.waited_seconds

    def close(self) -> None:
        """Stop reading ahead."""
        self._loader.close()

    def _open(self, step: int, number: int) -> Samples:
        """Read the batch of that number of a step's, as the part of the step that it is for."""
        local = self._loader.batch(self._run.scheme.batches_before(step) + number)
        self._batch.start(step, local.first_row, len(local.images), part=number)
        on_device, dtype = self._accelerator.to_device, self._run.torch_dtype
        self._real = Samples(
            images=to_model(on_device(local.images), dtype),
            labels=on_device(local.labels),
            paired=None if local.paired is None else to_model(on_device(local.paired), dtype),
        )
        return self._real

    def _networks(self) -> tuple[nn.Module, nn.ModuleDict]:
        """Networks whose first weights depend on the seed alone."""
        digest = hashlib.blake2b(f"{self._run.seed}/weights".encode(), digest_size=8).digest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest, "little") >> 1)
            generator, critics = self._run.task.build(self._run.network, self._run.image)
            for regularizer in self._run.regularizers:
                regularizer.prepare(critics)
        place = self._accelerator.device, self._run.torch_dtype
        generator = follow_global_batch(generator, self._batch, "generator")
        follow_global_batch(critics, self._batch, "critic")
        return generator.to(*place), critics.to(*place)

    def _spread(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        means = self._batch.group_means(torch.cat([pixels, pixels.square()], 1))
        first, second = means.mean(0).chunk(2)
        return (second - first.square()).clamp_min(0).sqrt().mean()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within, the network uses its running statistics, drops nothing out and records no gradients."""
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train()
