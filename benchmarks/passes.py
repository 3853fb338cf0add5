"""The critic's three passes of a joint step, as one call and as three: forward and backward, interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from service.batch import GlobalBatch
from service.collectives import OneReplica
from service.judging import judge
from service.layers import follow_global_batch
from service.networks import ImageShape, LatentNetwork
from service.networks.dcgan import DCGAN
from service.networks.mlp import MLP
from service.tasks import View

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


def main() -> None:
    for name, (network, image) in KINDS.items():
        batch = GlobalBatch(SIZE, 1, 0, OneReplica(), torch.device("cpu"))
        batch.start(0, 0, SIZE)
        critic = follow_global_batch(network.critic(image), batch, "critic")
        views = [View(torch.randn(SIZE, *image)) for _ in range(3)]

        def together(critic: nn.Module = critic, views: list[View] = views, batch: GlobalBatch = batch) -> list[Tensor]:
            return [judge(critic, views, [batch.own_rows] * 3, batch, 0).outputs]

        def apart(critic: nn.Module = critic, views: list[View] = views, batch: GlobalBatch = batch) -> list[Tensor]:
            return [judge(critic, [view], [batch.own_rows], batch, at).outputs for at, view in enumerate(views)]

        seconds: dict[str, list[float]] = {"one": [], "three": []}
        for _ in range(ROUNDS):
            seconds["one"].append(timed(together))
            seconds["three"].append(timed(apart))
        one, three = (median(values[4:]) for values in seconds.values())
        print(f"  {name:<26}{one * 1e3:7.1f} ms in one, {three * 1e3:7.1f} ms in three: {three / one:.2f}")
