"""Weights of the global batch against weights of each replica's shard: what they cost, and what the latter do."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.sources.digits import Digits
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.replicas.global_batch import GlobalBatch
from service.replicas.row_sets import RowSet
from service.runs.on_replica import replica as replica_module
from service.runs.on_replica.replica import Replica
from tests.processes import run_replicas

BLOCK, BLOCKS = 5, 12
MARKS = (1, 10, 50, 100)


class ShardWeights(GlobalBatch):
    """A batch whose losses, and so whose weights, are means over this replica's rows; batch norm stays global."""

    def whole(self, *tables: tuple[Tensor, Sequence[RowSet]]) -> list[Tensor]:
        return [values.view(len(rows), 1, -1, values.shape[1]) for values, rows in tables]


class ShardStatistics(ShardWeights):
    """A batch whose every statistic is over this replica's rows: what DistributedDataParallel does by itself."""

    def group_means(self, values: Tensor, count_per_row: int = 1) -> Tensor:
        if self.groups == 1:
            return values.sum(0, keepdim=True) / (len(values) * count_per_row)
        local = torch.where(self._members(), values[:, None], 0).sum(0)
        return local / (len(values) / self.groups * count_per_row)


KINDS = {"global": GlobalBatch, "shard weights": ShardWeights, "shard statistics": ShardStatistics}


def build(rank: int, world_size: int, data: str, kind: str, words: list[str]) -> Replica:
    run = load("self-dcgan-mnist", ["data.source=digits", *words])
    loader = open_loader(Location.of(data), run.data.transform, run.batch.size, run.seed, rank, world_size)
    replica_module.GlobalBatch = KINDS[kind]  # type: ignore[attr-defined]
    try:
        return Replica(run, TorchDistributed(torch.device("cpu")), loader)
    finally:
        replica_module.GlobalBatch = GlobalBatch  # type: ignore[attr-defined]


def timed(rank: int, world_size: int, data: str) -> dict[str, list[float]]:
    """Seconds a step, in blocks, of two kinds in turn."""
    kinds = {kind: build(rank, world_size, data, kind, []) for kind in ("global", "shard weights")}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for block in range(BLOCKS):
        for kind, replica in kinds.items():
            began = time.perf_counter()
            for step in range(block * BLOCK, (block + 1) * BLOCK):
                replica.step(step)
            seconds[kind].append((time.perf_counter() - began) / BLOCK)
    return seconds


def drifting(rank: int, world_size: int, data: str, kind: str) -> list[Tensor]:
    """All weights, as one vector, after each of MARKS steps in float64."""
    words = ["dtype=float64", "network.generator_channels=16", "network.critic_channels=8"]
    replica = build(rank, world_size, data, kind, words)
    found = []
    for step in range(MARKS[-1]):
        replica.step(step)
        if step + 1 in MARKS:
            parameters = [*replica.generator.parameters(), *replica.critics.parameters()]
            found.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as data:
        ingest(Digits(), Transform(size=32, channels=1, resample="bilinear"), Location.of(data))
        seconds = run_replicas(2, timed, data)
        for kind, values in seconds.items():
            print(f"  {kind:<18}{median(values[2:]) * 1e3:8.1f} ms a step on 2 replicas")
        pairs = zip(seconds["global"][2:], seconds["shard weights"][2:], strict=True)
        print(f"  global / shard weights: {median([ours / theirs for ours, theirs in pairs]):.3f} (goal: at most 1.03)")
        reference = run_replicas(1, drifting, data, "global")
        print(f"  distance from one replica, relative, float64, after {', '.join(map(str, MARKS))} steps:")
        for kind in KINDS:
            for count in (2, 4):
                found = run_replicas(count, drifting, data, kind)
                apart = [float((a - b).norm() / b.norm()) for a, b in zip(found, reference, strict=True)]
                print(f"    {kind:<18}{count} replicas: {'  '.join(f'{value:.1e}' for value in apart)}")
