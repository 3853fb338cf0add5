"""The loop of one replica: batch, step, log, sample, checkpoint."""

from __future__ import annotations

from service.configuration.config import Run
from service.replicas.accelerators import Accelerator
from service.runs.on_replica.agreement import Left, Wish
from service.runs.on_replica.metric_log import MetricLog, Outputs
from service.runs.on_replica.replica import Replica
from service.training.health.divergence import Diverged
from service.training.health.score import sliced_wasserstein

SAMPLE_SEED = 0


def train(
    run: Run, accelerator: Accelerator, replica: Replica, outputs: Outputs, start: int = 0
) -> Diverged | Left | None:
    """Train from step `start` to the end of the run.

    Values that were logged are fetched while the next steps run, and read at the next logging step: every
    replica learns of a divergence at the same step, and none waits for its device.

    Returns:
        Where the run diverged, or was asked to leave, if it was: it ends there, the same on every replica.
    """
    chief = accelerator.rank == 0
    makes_images = chief or accelerator.in_step
    log = MetricLog(run, accelerator, replica, outputs)
    for step in range(start, run.steps):
        values = replica.step(step)
        done = step + 1
        if chief:
            outputs.progress(done)
        if done % run.logging.every == 0 or done == run.steps:
            diverged = log.exchange(done, values)
            if diverged:
                return diverged
        if makes_images and (done % run.logging.samples_every == 0 or done == run.steps):
            images = replica.generate(run.logging.samples, SAMPLE_SEED, shown=True)
            if chief:
                outputs.samples(done, images)
        wish = outputs.wish(done) if done < run.steps else Wish()
        if done % run.checkpoints.every == 0 or done == run.steps or wish.checkpoint or wish.leave:
            diverged = log.flush() or replica.diverged()
            if diverged:
                return diverged
            score = _score(run, replica) if makes_images else None
            outputs.checkpoint(replica.state(done), score)
        if wish.leave:
            return Left(done, wish.leave)
    return None


def _score(run: Run, replica: Replica) -> float:
    real = replica.real_images(run.checkpoints.score_images)
    generated = replica.generate(len(real), SAMPLE_SEED)
    count = min(len(real), len(generated))  # Another domain may have fewer images to make them of.
    return sliced_wasserstein(generated[:count], real[:count])
