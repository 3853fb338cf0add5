"""What Ray Train runs on each replica: the loop, with its outputs tied to Ray and MLflow."""

from __future__ import annotations

import os
from importlib.util import find_spec

import ray.train.torch
import torch

from pipelines.data.shards import DamagedShardError
from service.artifacts.checkpoints import CheckpointError, UnreadableCheckpointError
from service.configuration.config import Run
from service.configuration.reading import from_tree
from service.replicas.accelerators import Accelerator, AcceleratorError
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.job import Job
from service.runs.on_replica.agreement import Left
from service.runs.on_replica.loop import train
from service.runs.on_replica.outputs import RayOutputs
from service.runs.on_replica.real_samples import open_loaders
from service.runs.on_replica.replica import Replica
from service.runs.on_replica.restoring import restore
from service.training.health.divergence import Diverged


def replica_main(job: Job) -> Diverged | Left | str | None:
    """Train as one of the replicas that Ray has started. Returns why the run has ended before its time, if it has."""
    if reason := ray.get(job.status.read.remote()).hopeless:
        return str(reason)
    if job.accelerator == "xla" and find_spec("torch_xla") is None:
        return "torch_xla is not installed where the replicas run: pip install 'selfgan[tpu]'"
    try:
        run, accelerator, replica = set_up(job)
        start = restore(run, job.folder, replica, accelerator.rank, job.status)
        outputs = RayOutputs(run, job, chief=accelerator.rank == 0, start=start)
        ended = outputs.ended(start) or train(run, accelerator, replica, outputs, start)
        if accelerator.rank == 0:  # What is left, such as uploads, may take longer than a step.
            job.status.leaving.remote()
    except UnreadableCheckpointError:  # It may pass: Ray starts the run again, as often as the run allows.
        raise
    except (DamagedShardError, AcceleratorError, CheckpointError) as error:
        # Only Ray can end the others, who wait for this replica; what it then starts again looks at the status.
        ray.get(job.status.give_up.remote(str(error)))
        raise
    replica.close()
    outputs.close()
    return ended


def set_up(job: Job) -> tuple[Run, Accelerator, Replica]:
    """The run, and this process's part of it."""
    run = from_tree(job.run)
    if job.accelerator != "cuda":  # Ray says by this variable how many of the machine's CPUs are this replica's.
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    accelerator = _accelerator(job)
    loaders = open_loaders(run, accelerator, lambda what, rows: job.status.replace.remote(what, rows))
    return run, accelerator, Replica(run, accelerator, *loaders)


def _accelerator(job: Job) -> Accelerator:
    if job.accelerator != "xla":
        return TorchDistributed(ray.train.torch.get_device())
    # Only a TPU's host has torch_xla, and PJRT's client is known by now.
    from service.replicas.accelerators.xla import Xla

    context = ray.train.get_context()
    return Xla(context.get_world_rank(), context.get_world_size())
