"""How a run's batch is summed over, and how its networks compute with it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from service.configuration.config import Run
from service.replicas.accelerators import Accelerator
from service.replicas.exact.arithmetic import settle
from service.replicas.exact.batch import ExactBatch
from service.replicas.exact.gradients import WeightGradients
from service.replicas.exact.kernels import ByCell
from service.replicas.exact.layers import ExactLayers
from service.replicas.global_batch import GlobalBatch
from service.replicas.products import AtOnce, Products


def new_batch(run: Run, accelerator: Accelerator, most: int) -> tuple[GlobalBatch, AbstractContextManager[Any]]:
    """The global batch, and what every step is taken within.

    Args:
        most: no process reads more rows of any batch.
    """
    collective, device, rows = accelerator.collective, accelerator.device, partial(accelerator.rows, most=most)
    shape = run.batch.size, run.batch.shards, run.seed, collective, device, run.torch_dtype, rows
    if not run.exact:
        return GlobalBatch(*shape), Products(AtOnce()) if run.dtype == "bfloat16" else nullcontext()
    settle(device)
    batch = ExactBatch(*shape, run.batch.cells, accelerator.rank)
    return batch, ExactLayers(ByCell(batch, WeightGradients(collective, run.batch.cells, accelerator.rank)))
