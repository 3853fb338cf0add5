"""What looks at images cost: a critic's three passes in one call and in three, and steps of recipes and Self forms.

In brackets stands what a step costs as a multiple of the alternating one. Some of those have several critic updates.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.in_process import opened
from pipelines.components import ConfigError
from pipelines.data.sources.idx import Idx
from service.configuration.recipe import load
from service.configuration.recipe_texts import recipes
from service.models.networks import ImageShape, LatentNetwork
from service.models.networks.dcgan import DCGAN
from service.models.networks.mlp import MLP
from service.replicas.collectives import OneReplica
from service.replicas.global_batch import GlobalBatch
from service.replicas.global_layers import follow_global_batch
from service.tasks import View
from service.training.critics.passes import run_critic
from service.training.schemes.joint import Joint

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


#: What lets one look at generated images serve both networks, where the critic allows it.
_TWO = ["scheme.fakes=current", "scheme.generator_trains_critic=false", "scheme.passes=two"]
BLOCK, BLOCKS = 3, 8
#: The first step that is timed: some recipes' critics have more updates before it.
FIRST = 1001


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


def pairs() -> list[str]:
    """The recipes of MNIST that have a Self form."""
    names = recipes()
    return [name for name in names if f"self-{name}" in names and isinstance(load(name).data.source, Idx)]


def kinds_of(name: str) -> dict[str, list[str]]:
    """A recipe's steps to compare: alternating, joint and, where it is allowed, with one look for both networks."""
    joint = f"self-{name}"
    found = {"alternating": [name], "joint": [joint]}
    scheme = load(joint).scheme
    if isinstance(scheme, Joint) and scheme.passes == "two":
        return {"alternating": [name], "one look": [joint]}
    with suppress(ConfigError):
        load(joint, _TWO)
        found["one look"] = [joint, *_TWO]
    return found


def steps() -> None:
    """Whole steps of recipes, in blocks, one kind after the other, on one thread, in CPU seconds."""
    torch.set_num_threads(1)
    for name in pairs():
        kinds = kinds_of(name)
        with tempfile.TemporaryDirectory() as storage, ExitStack() as stack:
            replicas = {
                kind: stack.enter_context(opened(recipe, [*words, "data.source=digits"], storage))
                for kind, (recipe, *words) in kinds.items()
            }
            seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
            for block in range(BLOCKS):
                for kind, replica in replicas.items():
                    began = time.process_time()
                    for step in range(FIRST + block * BLOCK, FIRST + (block + 1) * BLOCK):
                        replica.step(step)
                    seconds[kind].append((time.process_time() - began) / BLOCK)
        found = []
        for kind, values in seconds.items():
            ratio = median([mine / other for mine, other in zip(values[1:], seconds["alternating"][1:], strict=True)])
            found.append(f"{kind} {median(values[1:]) * 1e3:.1f} ms ({ratio:.2f})")
        print(f"  {name}: {', '.join(found)}", flush=True)


def main() -> None:
    passes()
    steps()
