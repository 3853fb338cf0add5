"""Where a replica's loop sends what it makes: Ray, MLflow, Prometheus and the person who watches."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import ray.train
import ray.train.torch
from torch import Tensor

from pipelines.storage.location import Location
from service.artifacts import best, checkpoints, run_checkpoints
from service.artifacts.checkpoints import State
from service.configuration.config import Run
from service.runs.early_stop import EarlyStops
from service.runs.job import Job
from service.runs.on_replica import node_metrics
from service.runs.on_replica.agreement import Agreement, Left, Wish
from service.runs.on_replica.pulse import beat
from service.tracking.delivery import Tracker
from service.tracking.gauges import Gauges
from service.tracking.journal import Journal
from service.tracking.sample_grids import grid
from service.tracking.traces import Trace

_POST_SECONDS = 0.2
#: How long a replica that leaves waits for the tracking server at most: its node may be gone in 30 s.
_LEAVING_SECONDS = 10.0


class RayOutputs:
    """The loop's outputs: Ray for checkpoints, the status for the person, MLflow for the record."""

    def __init__(self, run: Run, job: Job, chief: bool, start: int) -> None:
        self._run, self._job, self._chief = run, job, chief
        self._next_post = 0.0
        self._ended = beat(job.status)
        minutes = run.checkpoints.minutes
        stop = run.evaluation.stop
        early = EarlyStops(stop, run.checkpoints.every, Location.of(job.folder)) if stop is not None else None
        self._agreement = Agreement(job.status, minutes and minutes * 60, start, early)
        self._leaving = False
        if run.tracking.system_metrics:
            node_metrics.tell(job.status, self._ended)
        if not chief:
            return
        replicas = ray.train.get_context().get_world_size()
        name = Location.of(job.folder).path.rpartition("/")[2]
        self._gauges = Gauges(name, run.recipe, ray.get(job.status.start.remote(start, replicas)))
        self._folder = local_folder(job.folder, job.tracking_run)
        self._tracker = Tracker(job.tracking_uri, job.tracking_run, Journal(self._folder / "metrics.jsonl"))
        if run.tracking.system_metrics:
            node_metrics.collect(job.status, self._ended, self._tracker.observed)
        chosen, traces = run.profile, self._folder / "profile"
        self._trace = Trace(chosen.after, chosen.steps, traces, self._traced) if chosen.steps else None
        self._best = best.read(Location.of(job.folder))
        self._uploads: list[threading.Event] = []

    def progress(self, step: int) -> None:
        if self._trace is not None:
            self._trace.step(step)
        now = time.monotonic()
        if now >= self._next_post:
            self._next_post = now + _POST_SECONDS
            self._job.status.post.remote(step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._tracker.metrics(step, values)
        self._gauges.set(step, values)
        self._job.status.post.remote(step, dict(values))

    def warn(self, text: str) -> None:
        self._tracker.tag("warning", text)
        self._job.status.warn.remote(text)

    def samples(self, step: int, images: Tensor) -> None:
        file = self._folder / "samples" / f"step-{step:08}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        grid(images).save(file)
        self._tracker.file(file, "samples")
        self._tracker.picture(file, "samples", step)

    def _traced(self, file: Path) -> None:
        """A trace is written. The run can go on without."""
        self._tracker.file(file, "profile")
        kept = Location.of(self._job.folder) / "profile" / file.name
        try:
            if not kept.is_local:
                kept.write(file.read_bytes())
        except OSError as error:
            self._job.status.warn.remote(f"{kept} could not be written: {' '.join(str(error).split())}")
        else:
            self._job.status.say.remote(f"trace of torch's profiler: {kept} (https://ui.perfetto.dev shows it)")

    def ended(self, start: int) -> Left | None:
        """Whether the run has ended early, where it goes on after `start` steps. Called on every replica."""
        return self._agreement.ended_before(start)

    def wish(self, step: int) -> Wish:
        wish = self._agreement.wish(step)
        self._leaving = wish.leave not in (None, "figure")
        return wish

    def checkpoint(self, state: State, score: float | None) -> None:
        self._agreement.checkpointed()
        if not self._chief:
            ray.train.report({}, checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC)
            return
        assert score is not None
        folder = Path(tempfile.mkdtemp(prefix="selfgan-checkpoint-"))
        checkpoints.save(state, folder)
        name = checkpoints.name_of(state.step)
        candidate = best.Best(step=state.step, score=score)
        improves = self._best is None or score < self._best.score
        if improves:
            self._best = candidate
        self._tracker.metrics(state.step, {"checkpoint/score": score})
        uploaded = threading.Event()
        self._uploads = [*(event for event in self._uploads if not event.is_set()), uploaded]

        replicas = ray.train.get_context().get_world_size()
        step = state.step  # All that the upload keeps of the state, which is large.

        def upload(checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
            # Ray tries some failures again, so the folder stays until it has worked; the others end this process.
            run = Location.of(self._job.folder)
            measures = self._run.evaluation.during_training
            target = run_checkpoints.publish(folder, run, step, measures, replicas)
            self._note_memory(step)
            self._published(target, candidate if improves else None, Location.of(str(folder)))
            shutil.rmtree(folder, ignore_errors=True)
            uploaded.set()
            return ray.train.Checkpoint(target.path, target.filesystem)

        ray.train.report(
            {"step": step, "score": score},
            ray.train.Checkpoint(str(folder)),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=upload,
            validation=self._run.evaluation.during_training and not self._leaving,  # Those that come later do it.
        )

    def _note_memory(self, step: int) -> None:
        """On the thread that uploads, as nothing that trains is to wait for the status."""
        with suppress(ray.exceptions.RayError):  # The driver is gone; the checkpoint counts more.
            peaks = ray.get(self._job.status.peaks.remote())
            self._tracker.metrics(step, {f"peak_memory_bytes/replica-{rank}": peak for rank, peak in peaks.items()})

    def _published(self, target: Location, improved: best.Best | None, saved: Location) -> None:
        """What follows a checkpoint that is in storage. The run can go on without."""
        run = Location.of(self._job.folder)
        try:
            if improved is not None:
                best.publish(run, improved, saved)
            self._tracker.tag("checkpoint.last", str(target))
            run_checkpoints.prune(run, self._run.checkpoints.keep)  # Ray Train uploads one checkpoint at a time.
        except OSError as error:
            reason = " ".join(str(error).split())
            self._job.status.warn.remote(f"{target} is kept, but noting it or deleting older ones failed: {reason}")

    def close(self) -> None:
        """Wait for storage and the tracking server to have everything; the pulse beats until then."""
        try:
            if self._chief:
                if self._trace is not None:
                    self._trace.close()
                self._deliver()
        finally:
            self._ended.set()

    def _deliver(self) -> None:
        """Wait for the tracking server to have everything; say so if it does not."""
        for uploaded in self._uploads:  # Each has something to say to the tracking server at its end.
            uploaded.wait()
        patience = self._run.tracking.patience_seconds
        if self._leaving:
            patience = min(patience, _LEAVING_SECONDS)
        lost = self._tracker.close(patience)
        if lost:
            reason = self._tracker.problem or f"no answer for {patience:.0f} s"
            self._job.status.warn.remote(
                f"{lost} entries of {self._folder / 'metrics.jsonl'} are not in MLflow ({reason}); "
                f"{self._run.resuming(Location.of(self._job.folder).name)} on this machine delivers them"
            )


def local_folder(folder: str, tracking_run: str) -> Path:
    """The run's folder if it is local, else one on this machine that no other run has."""
    location = Location.of(folder)
    return Path(location.path) if location.is_local else Path(tempfile.gettempdir(), "selfgan", tracking_run)
