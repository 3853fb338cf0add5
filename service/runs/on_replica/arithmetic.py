"""How a run's batch is summed over, and how its networks compute with it."""

from __future__ import annotations

from functools import partial

from service.configuration.config import Run
from service.replicas.accelerators import Accelerator
from service.replicas.exact.arithmetic import settle
from service.replicas.exact.batch import ExactBatch
from service.replicas.exact.gradients import WeightGradients
from service.replicas.exact.kernels import ByCell
from service.replicas.exact.layers import ExactLayers
from service.replicas.global_batch import GlobalBatch
from service.replicas.noise import Noise
from service.replicas.products import AtOnce, Products


def new_batch(run: Run, accelerator: Accelerator, most: int) -> GlobalBatch:
    """The global batch.

    Args:
        most: no process reads more rows of any batch.
    """
    collective, device, rows = accelerator.collective, accelerator.device, partial(accelerator.rows, most=most)
    shape = run.batch.size, run.batch.shards, run.seed, collective, device, run.torch_dtype, rows
    if run.exact:
        settle(device)
        exact = ExactBatch(*shape, run.batch.cells, accelerator.rank)
        gradients = WeightGradients(collective, run.batch.cells, accelerator.rank)
        exact.arithmetic = ExactLayers(ByCell(exact, gradients))
        batch: GlobalBatch = exact
    else:
        batch = GlobalBatch(*shape)
        if run.dtype == "bfloat16":
            batch.arithmetic = Products(AtOnce())
    batch.rows_at_once = run.batch.rows_at_once
    if not accelerator.compiles:
        batch.noise = Noise(device)
    return batch
