"""What Ray Train runs on each replica: the loop, with its outputs tied to Ray and MLflow."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import ray.train
import ray.train.torch
import torch
from torch import Tensor

from pipelines.disk_cache import DiskCache
from pipelines.loader import Loader, Reading, open_loader
from pipelines.shards import DamagedShardError
from pipelines.storage import Location, join
from service import best, checkpoints
from service.accelerators import Accelerator, AcceleratorError
from service.accelerators.torch_distributed import TorchDistributed
from service.checkpoints import State
from service.config import Run, from_tree
from service.divergence import Diverged
from service.gauges import Gauges
from service.journal import Journal
from service.loop import train
from service.pictures import grid
from service.replica import Replica
from service.tracking import Tracker

_POST_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """What the driver tells every replica."""

    run: dict[str, Any]
    folder: str
    tracking_uri: str
    tracking_run: str
    board: Any
    accelerator: Literal["cpu", "cuda", "xla"]


@dataclass(frozen=True)
class Stopped:
    """Why a run must end that another attempt would not help."""

    reason: str

    def __str__(self) -> str:
        return self.reason


def replica_main(job: Job) -> Diverged | Stopped | None:
    """Train as one of the replicas that Ray has started. Returns why the run has ended before its time, if it has."""
    if reason := ray.get(job.board.read.remote()).hopeless:
        return Stopped(reason)
    if job.accelerator == "xla" and find_spec("torch_xla") is None:
        return Stopped("torch_xla is not installed where the replicas run: pip install 'selfgan[tpu]'")
    try:
        run, accelerator, replica = set_up(job)
        start = _restore(run, replica)
        outputs = RayOutputs(run, job, chief=accelerator.rank == 0, start=start)
        diverged = train(run, accelerator, replica, outputs, start)
    except (DamagedShardError, AcceleratorError) as error:
        # Only Ray can end the others, who wait for this replica; what it then starts again looks at the board.
        ray.get(job.board.give_up.remote(str(error)))
        raise
    replica.close()
    outputs.close()
    return diverged


def set_up(job: Job) -> tuple[Run, Accelerator, Replica]:
    """The run, and this process's part of it."""
    run = from_tree(job.run)
    if job.accelerator != "cuda":  # Ray says by this variable how many of the machine's CPUs are this replica's.
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    accelerator = _accelerator(job)
    count = run.task.data_sets
    return run, accelerator, Replica(run, accelerator, *(_loader(run, at, job, accelerator) for at in range(count)))


def _accelerator(job: Job) -> Accelerator:
    if job.accelerator != "xla":
        return TorchDistributed(ray.train.torch.get_device())
    from service.accelerators.xla import Xla  # Only a TPU's host has torch_xla, and PJRT's client is known by now.

    context = ray.train.get_context()
    return Xla(context.get_world_rank(), context.get_world_size())


def _loader(run: Run, domain: int, job: Job, accelerator: Accelerator) -> Loader:
    """The loader of one of the run's data sets."""
    data = [run.data, *run.data.domains][domain]
    assert data.shards is not None  # The driver has found them.
    options = run.loader
    return open_loader(
        Location.of(data.shards),
        run.data.transform,
        run.batch.size,
        run.order_seed(domain),
        accelerator.reads_as,
        accelerator.world_size,
        version=data.version,
        cache=DiskCache(Path(options.cache).expanduser(), options.cache_bytes) if options.cache else None,
        reading=Reading(
            memory_bytes=options.memory_bytes // run.task.data_sets,
            decode_threads=options.decode_threads or torch.get_num_threads(),
            pinned=accelerator.device.type == "cuda",
            damaged=run.data.damaged,
            tell=lambda what, rows: job.board.replace.remote(what, rows),
        ),
    )


def _restore(run: Run, replica: Replica) -> int:
    """Go on from the run's last checkpoint, if it has one; returns the steps done."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        if run.start_from is not None:
            with tempfile.TemporaryDirectory() as folder:
                replica.begin_with(checkpoints.fetch(Location.of(run.start_from), Path(folder)))
        return 0
    with checkpoint.as_directory() as folder:
        state = checkpoints.load(Path(folder), replica.identity)
    replica.restore(state)
    return state.step


class RayOutputs:
    """The loop's outputs: Ray for checkpoints, the board for the person, MLflow for the record."""

    def __init__(self, run: Run, job: Job, chief: bool, start: int) -> None:
        self._run, self._job, self._chief = run, job, chief
        self._next_post = 0.0
        if not chief:
            return
        name = Location.of(job.folder).path.rpartition("/")[2]
        self._gauges = Gauges(name, run.recipe, ray.get(job.board.start.remote(start)))
        self._folder = local_folder(job.folder, job.tracking_run)
        self._tracker = Tracker(job.tracking_uri, job.tracking_run, Journal(self._folder / "metrics.jsonl"))
        self._best = best.read(Location.of(job.folder))
        self._uploads: list[threading.Event] = []

    def progress(self, step: int) -> None:
        now = time.monotonic()
        if now >= self._next_post:
            self._next_post = now + _POST_SECONDS
            self._job.board.post.remote(step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._tracker.metrics(step, values)
        self._gauges.set(step, values)
        self._job.board.post.remote(step, dict(values))

    def warn(self, text: str) -> None:
        self._tracker.tag("warning", text)
        self._job.board.warn.remote(text)

    def samples(self, step: int, images: Tensor) -> None:
        file = self._folder / "samples" / f"step-{step:08}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        grid(images).save(file)
        self._tracker.file(file, "samples")

    def checkpoint(self, state: State, score: float | None) -> None:
        if not self._chief:
            ray.train.report({}, checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC)
            return
        assert score is not None
        folder = Path(tempfile.mkdtemp(prefix="selfgan-checkpoint-"))
        checkpoints.save(state, folder)
        name = f"step-{state.step:08}"
        candidate = best.Best(step=state.step, score=score)
        improves = self._best is None or score < self._best.score
        if improves:
            self._best = candidate
        self._tracker.metrics(state.step, {"checkpoint/score": score})
        uploaded = threading.Event()
        self._uploads = [*(event for event in self._uploads if not event.is_set()), uploaded]

        def upload(checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
            try:
                target = Location.of(join(self._job.folder, name))
                target.copy_from(Location.of(checkpoint.path))
                if improves:
                    best.publish(Location.of(self._job.folder), candidate, Location.of(checkpoint.path))
                self._tracker.tag("checkpoint.last", str(target))
            finally:
                uploaded.set()
            return ray.train.Checkpoint(target.path, target.filesystem)

        ray.train.report(
            {"step": state.step, "score": score},
            ray.train.Checkpoint(str(folder)),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=upload,
            validation=self._run.evaluation.during_training,
        )

    def close(self) -> None:
        """Wait for the tracking server to have everything; say so if it does not."""
        if not self._chief:
            return
        for uploaded in self._uploads:  # Each has something to say to the tracking server at its end.
            uploaded.wait()
        lost = self._tracker.close(self._run.tracking.patience_seconds)
        if lost:
            reason = self._tracker.problem or f"no answer for {self._run.tracking.patience_seconds:.0f} s"
            self._job.board.warn.remote(
                f"{lost} entries of {self._folder / 'metrics.jsonl'} are not in MLflow ({reason}); "
                f"resume={Location.of(self._job.folder).path.rpartition('/')[2]} on this machine delivers them"
            )


def local_folder(folder: str, tracking_run: str) -> Path:
    """The run's folder if it is local, else one on this machine that no other run has."""
    location = Location.of(folder)
    return Path(location.path) if location.is_local else Path(tempfile.gettempdir(), "selfgan", tracking_run)
