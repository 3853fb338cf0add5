"""One replica: its networks and its rows of every batch, trained one step at a time."""

from __future__ import annotations

from torch import Tensor

from pipelines.components import name_of
from pipelines.loading.loader import Loader
from service.artifacts.checkpoints import State
from service.configuration.config import Run
from service.configuration.tree import dump
from service.generator import AVERAGE
from service.models.growth import begins, grow
from service.replicas.accelerators import Accelerator
from service.replicas.exact.arithmetic import fingerprint
from service.runs.on_replica.arithmetic import new_batch
from service.runs.on_replica.checkpoint_state import CheckpointState
from service.runs.on_replica.networks import images_of, new_networks
from service.runs.on_replica.real_samples import RealSamples
from service.training.context import TrainingContext
from service.training.critics.image_pool import Pools
from service.training.ema import Average
from service.training.health.divergence import Diverged, diverged_weights
from service.training.health.diversity import diversity


class Replica:
    """Networks, batch and scheme of a run on one device.

    Args:
        run: the resolved configuration.
        accelerator: this replica's.
        loaders: this replica's, one for each data set of the task.
    """

    def __init__(self, run: Run, accelerator: Accelerator, *loaders: Loader) -> None:
        self._run, self._accelerator = run, accelerator
        self._batch = new_batch(run, accelerator, max(loader.most for loader in loaders))
        self._real = RealSamples(run, accelerator, self._batch, loaders)
        self._pools = Pools(run.task.pool, self._batch)
        self.generator, self.critics = new_networks(run, self._batch)
        self._stepper = run.scheme.stepper(
            TrainingContext(
                network=run.network,
                task=run.task,
                objective=run.objective,
                regularizers=run.regularizers,
                optimizer=run.optimizer,
                image=run.image,
                generator=self.generator,
                critics=self.critics,
                roles=run.critics.roles(run.task.games),
                terms={name_of(term): term.build(accelerator.device, run.torch_dtype) for term in run.terms},
                batch=self._batch,
                pools=self._pools,
                accelerator=accelerator,
                compile=run.compile,
                exact=run.exact,
            )
        )
        self._average = Average(run.ema, self.generator, self._batch) if run.ema else None
        networks = {"generator": self.generator, "critic": self.critics}
        if self._average:
            networks[AVERAGE] = self._average.network
        self._state = CheckpointState(networks, self._stepper, self._pools, self._batch)

    def step(self, step: int) -> dict[str, Tensor]:
        """Train on the batch of `step`; returns batch-global losses and weights, on the device."""
        for optimizer in self._stepper.optimizers.values():
            self._run.optimizer.schedule(optimizer, step, self._run.batch.size)
        if self._run.network.last_stage(self._run.image):
            self._grow(step)
        with self._batch.arithmetic:
            metrics = self._stepper.step(step, lambda number: self._real.open(step, number))
        if self._average:
            self._average.follow()
        self._accelerator.finish()
        return metrics

    def diversity(self) -> Tensor:
        """How much the last step's images differ among themselves, against how much the real ones do."""
        return diversity(self._stepper.fakes, self._run.task.target(self._real.opened), self._batch)

    def first_bad_steps(self) -> dict[str, Tensor]:
        """By term, the first step at which its loss was not finite, or -1; on the device."""
        return self._stepper.divergence.first_steps()

    def diverged(self) -> Diverged | None:
        """Where the run diverged, if it did. Looks at the weights too, and waits for the device."""
        parameters = [*self.generator.parameters(), *self.critics.parameters()]
        return self._stepper.divergence.diverged() or diverged_weights(parameters, self._batch.step)

    def generate(self, count: int, seed: int, shown: bool = False) -> Tensor:
        """Images (count, C, H, W), uint8, of inputs that depend on `seed` alone.

        No other replica takes part, but where the accelerator is `in_step`.

        Args:
            shown: with what a person should see beside them.
        """
        run, task = self._run, self._run.task
        real = self._real.some(count) if task.translates or task.several else None
        examples = task.examples(run.network, seed, count, self._accelerator.device, real)
        generator = self._average.network if self._average else self.generator
        return images_of(generator, task, examples, run.torch_dtype, shown)

    def real_images(self, count: int) -> Tensor:
        """The same `count` (at most) real images, (N, C, H, W) uint8, at every call: what generated ones should be."""
        return self._real.targets(count)

    @property
    def identity(self) -> dict[str, str]:
        """What a checkpoint must share with this run for it to go on from there."""
        return {"recipe": self._run.recipe_hash, "data set": self._real.hash}

    @property
    def arithmetic(self) -> str:
        """What the bits of its results depend on beside the recipe."""
        return fingerprint(self._accelerator.device)

    def state(self, step: int) -> State:
        """Everything that continues, after `step` steps. All replicas take part; waits for the device."""
        return self._state.state(step, self.identity, dump(self._run))

    def restore(self, state: State) -> None:
        """Go on from `state`.

        A step is done first, and forgotten: DistributedDataParallel lays its buckets out anew after its first
        step, and the layout decides in which order a ring adds three or more gradients up. Exact replicas have none.
        """
        last = max(state.step - 1, 0)  # The rows that are kept are those of the last step.
        if self._accelerator.collective.world_size > 1 and not self._run.exact:
            self.step(last)
        self._real.open(last, self._run.scheme.batches(last) - 1)
        self._state.restore(state)

    def begin_with(self, state: State) -> None:
        """Take over the networks of another run's state, before the first step. Raises CheckpointError."""
        self._state.begin_with(state)

    @property
    def waited_seconds(self) -> float:
        """How long steps have waited for data so far."""
        return self._real.waited_seconds

    def close(self) -> None:
        """Stop reading ahead."""
        self._real.close()

    def _grow(self, step: int) -> None:
        """Let networks be as far as they are to be at `step`."""
        now, before = self._real.stage(step), self._real.stage(step - 1)
        for network in self._state.networks.values():
            grow(network, now)
        if begins(now, before):
            for optimizer in self._stepper.optimizers.values():
                optimizer.state.clear()
