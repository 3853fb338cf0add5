"""How far runs of the default recipe on two replicas are from a run on one, in float32 and in float64.

The algorithm is the same, but sums over the batch are taken in another order, and training amplifies the last bit. How
much it does is shown beside: one replica whose first weights are disturbed by a rounding. With ``exact=true`` sums have
one order, and runs are equal.
"""

from __future__ import annotations

import tempfile
from typing import NamedTuple

import torch
from torch import Tensor

from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.sources.digits import Digits
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.on_replica.loop import SAMPLE_SEED
from service.runs.on_replica.replica import Replica
from tests.processes import run_replicas

MARKS = {"float32": (100, 500, 1500), "float64": (50, 300, 700)}
DISTURBED = {"float32": 1e-7, "float64": 1e-16}


class Mark(NamedTuple):
    """A run after some steps: its weights by name, and a sample grid."""

    weights: dict[str, Tensor]
    samples: Tensor


def trained(rank: int, world_size: int, data: str, dtype: str, disturbed: float, exact: bool = False) -> list[Mark]:
    """The run at each of its marks; weights multiplied by 1 +- `disturbed` before the first step."""
    run = load("digits", [f"dtype={dtype}", f"exact={exact}"])
    loader = open_loader(
        Location.of(data), run.data.transform, run.batch.size, run.seed, rank, world_size, cells=run.cells
    )
    replica = Replica(run, TorchDistributed(torch.device("cpu")), loader)
    networks = torch.nn.ModuleDict({"generator": replica.generator, "critic": replica.critics})
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.mul_(1 + disturbed * (2 * torch.rand(parameter.shape, generator=draw, dtype=parameter.dtype) - 1))
    found = []
    for step in range(MARKS[dtype][-1]):
        replica.step(step)
        if step + 1 in MARKS[dtype]:
            weights = {name: one.detach().clone() for name, one in networks.named_parameters()}
            found.append(Mark(weights, replica.generate(64, SAMPLE_SEED)))
    replica.close()
    return found


def apart(one: Mark, other: Mark) -> tuple[float, float]:
    """The largest relative distance of a tensor of weights, and the mean one of the samples in grey levels."""
    pairs = ((one.weights[name], other.weights[name]) for name in one.weights)
    weights = max(float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in pairs)
    return weights, float((one.samples.float() - other.samples.float()).abs().mean())


def main() -> None:
    with tempfile.TemporaryDirectory() as data:
        ingest(Digits(), Transform(size=16, channels=1, resample="bicubic"), Location.of(data))
        for dtype in MARKS:
            alone = run_replicas(1, trained, data, dtype, 0.0)
            show(dtype, "2 replicas", run_replicas(2, trained, data, dtype, 0.0), alone)
            disturbed = run_replicas(1, trained, data, dtype, DISTURBED[dtype])
            show(dtype, f"1 replica, disturbed by {DISTURBED[dtype]:.0e}", disturbed, alone)
        alone = run_replicas(1, trained, data, "float32", 0.0, True)
        for count in (2, 3):
            show("float32", f"{count} exact replicas", run_replicas(count, trained, data, "float32", 0.0, True), alone)


def show(dtype: str, name: str, found: list[Mark], alone: list[Mark]) -> None:
    for mark, here, there in zip(MARKS[dtype], found, alone, strict=True):
        weights, samples = apart(here, there)
        print(
            f"  {dtype}, {name}, {mark:5,} steps: weights {weights:.1e} apart, samples {samples:.1f} of 255", flush=True
        )
