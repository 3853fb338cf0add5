"""What looks at images cost: the critic's three passes as one call and as three, and whole steps of fewer looks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.in_process import opened
from service.models.networks import ImageShape, LatentNetwork
from service.models.networks.dcgan import DCGAN
from service.models.networks.mlp import MLP
from service.replicas.collectives import OneReplica
from service.replicas.global_batch import GlobalBatch
from service.replicas.global_layers import follow_global_batch
from service.tasks import View
from service.training.critics.passes import run_critic

SIZE, ROUNDS = 64, 40
KINDS: dict[str, tuple[LatentNetwork, ImageShape]] = {
    "mlp": (MLP(), ImageShape(1, 28, 28)),
    "dcgan without batch norm": (DCGAN(critic_batch_norm=False), ImageShape(1, 32, 32)),
    "dcgan": (DCGAN(), ImageShape(1, 32, 32)),
    "dcgan, bedrooms": (DCGAN(), ImageShape(3, 64, 64)),
}


def timed(calls: Callable[[], list[Tensor]]) -> float:
    """Seconds of a forward and a backward pass."""
    began = time.perf_counter()
    torch.stack([outputs.sum() for outputs in calls()]).sum().backward()
    return time.perf_counter() - began


_TWO = "scheme={name: joint, passes: two, fakes: current, generator_trains_critic: false}"
#: Steps to compare, by network: what the notebooks do, and one look at generated images for both networks.
STEPS = {
    "mlp": {"alternating": ["gan-mnist"], "joint": ["self-gan-mnist"], "two looks": ["self-gan-mnist", _TWO]},
    "dcgan without batch norm": {
        name: [recipe, "network.critic_batch_norm=false", *words]
        for name, (recipe, *words) in {
            "alternating": ["dcgan-mnist"], "joint": ["self-dcgan-mnist"], "two looks": ["self-dcgan-mnist", _TWO],
        }.items()
    },
}  # fmt: skip
BLOCK, BLOCKS = 5, 12


def passes() -> None:
    """The critic alone."""
    for name, (network, image) in KINDS.items():
        batch = GlobalBatch(SIZE, 1, 0, OneReplica(), torch.device("cpu"))
        batch.start(0, 0, SIZE)
        critic = follow_global_batch(network.critic(image), batch, "critic")
        views = [View(torch.randn(SIZE, *image)) for _ in range(3)]

        def together(critic: nn.Module = critic, views: list[View] = views, batch: GlobalBatch = batch) -> list[Tensor]:
            return [run_critic(critic, views, [batch.own_rows] * 3, batch, 0).outputs]

        def apart(critic: nn.Module = critic, views: list[View] = views, batch: GlobalBatch = batch) -> list[Tensor]:
            return [run_critic(critic, [view], [batch.own_rows], batch, at).outputs for at, view in enumerate(views)]

        seconds: dict[str, list[float]] = {"one": [], "three": []}
        for _ in range(ROUNDS):
            seconds["one"].append(timed(together))
            seconds["three"].append(timed(apart))
        one, three = (median(values[4:]) for values in seconds.values())
        print(f"  {name:<26}{one * 1e3:7.1f} ms in one, {three * 1e3:7.1f} ms in three: {three / one:.2f}")


def steps() -> None:
    """Whole steps, in blocks, one kind after the other."""
    for network, kinds in STEPS.items():
        with tempfile.TemporaryDirectory() as storage, ExitStack() as stack:
            replicas = {
                kind: stack.enter_context(opened(recipe, [*words, "data.source=digits"], storage))
                for kind, (recipe, *words) in kinds.items()
            }
            seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
            for block in range(BLOCKS):
                for kind, replica in replicas.items():
                    began = time.perf_counter()
                    for step in range(block * BLOCK, (block + 1) * BLOCK):
                        replica.step(step)
                    seconds[kind].append((time.perf_counter() - began) / BLOCK)
        for kind, values in seconds.items():
            ratio = median([mine / other for mine, other in zip(values[2:], seconds["alternating"][2:], strict=True)])
            print(f"  {network}, {kind}: {median(values[2:]) * 1e3:.1f} ms a step, {ratio:.2f} of alternating")


def main() -> None:
    passes()
    steps()
