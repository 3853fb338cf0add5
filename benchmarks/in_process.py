"""A run's replica in this process: as ``service/train.py`` sets it up, without Ray and MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from rich.console import Console

from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.driver.datasets import prepare_all
from service.runs.on_replica.replica import Replica

_CPU = torch.device("cpu")


@contextmanager
def opened(recipe: str, overrides: list[str], storage: str, device: torch.device = _CPU) -> Iterator[Replica]:
    """This process's replica of a run, the only one if no process group stands, with its data in `storage`."""
    run = load(recipe, [*overrides, f"storage={storage}"])
    accelerator = TorchDistributed(device)
    place = accelerator.reads_as, accelerator.world_size
    loaders = [
        open_loader(
            Location.of(shards), run.data.transform, run.batch.size, run.order_seed(number), *place, cells=run.cells
        )
        for number, (shards, _) in enumerate(prepare_all(run, Console(quiet=True)))
    ]
    replica = Replica(run, accelerator, *loaders)
    try:
        yield replica
    finally:
        replica.close()
