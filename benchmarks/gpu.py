"""Steps on one GPU: ours, plain, compiled and as graphs, the author's loop and a bare one, in turn on the same card.

Options: ``recipes=self-dcgan-mnist,self-dcgan-bedroom``, ``device=cuda`` and ``blocks=10``. Pictures are the bundled
digits at the recipe's size, so that there is nothing to download. Goal: four times the images of the author's loop for
DCGAN of 64 pixels on one H100.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import NamedTuple

import torch
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.profiler import ProfilerActivity, profile

from benchmarks.in_process import opened
from benchmarks.loops import authors_loop, bare_loop
from service.configuration.recipe import load
from service.runs.on_replica.replica import Replica

RECIPES = "self-dcgan-mnist,self-dcgan-bedroom"


class Variant(NamedTuple):
    """A way to run our steps.

    Attributes:
        channels_last: whether images lie in memory with their channels last, as tensor cores read them.
        tf32: whether products of matrices may round to TF32, as those of convolutions do by torch's default.
    """

    words: tuple[str, ...] = ()
    channels_last: bool = False
    tf32: bool = False


_FAST = "compile.graphs=true"
VARIANTS = {
    "ours": Variant(),
    "compiled": Variant(("compile=true",)),
    "graphs": Variant((_FAST,)),
    "graphs, TF32": Variant((_FAST,), tf32=True),
    "graphs, bfloat16": Variant((_FAST, "dtype=bfloat16")),
    "graphs, bfloat16, channels last": Variant((_FAST, "dtype=bfloat16"), channels_last=True),
}
BLOCK = 20
#: What the host calls to start work on the device.
STARTS = "cudaLaunchKernel", "cudaMemcpyAsync", "cudaMemsetAsync", "cudaGraphLaunch", "cuLaunchKernel"
Step = Callable[[], object]


def of_replica(replica: Replica, variant: Variant, first: int = 0) -> Step:
    """Its steps from the first on, one a call."""
    numbers = itertools.count(first)
    if variant.channels_last:
        for network in (replica.generator, replica.critics):
            convert_conv2d_weight_memory_format(network, torch.channels_last)

    def step() -> None:
        torch.backends.cuda.matmul.allow_tf32 = variant.tf32
        replica.step(next(numbers))

    return step


def waited(device: torch.device, step: Step, count: int) -> float:
    """Seconds until the device is done with so many steps."""
    began = time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def launches(device: torch.device, step: Step) -> str:
    """How often one step starts a kernel, a copy or a graph on a GPU."""
    if device.type != "cuda":
        return "unknown"
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        waited(device, step, 1)
    return str(sum(event.name.startswith(STARTS) for event in found.events()))


def compare(recipe: str, device: torch.device, blocks: int) -> None:
    """Prints images/s of each, and launches."""
    given = ["data.source=digits"]
    run = load(recipe, given)
    size, real = run.batch.size, torch.zeros(run.batch.size, *run.image, device=device)
    bare, authors = bare_loop(run.image, size, device), authors_loop(run.image, size, device=device)
    with tempfile.TemporaryDirectory() as storage, ExitStack() as stack:
        steps: dict[str, Step] = {
            name: of_replica(stack.enter_context(opened(recipe, [*given, *variant.words], storage, device)), variant)
            for name, variant in VARIANTS.items()
        }
        steps |= {"bare loop": lambda: bare(real), "author's loop": lambda: authors(real)}
        for step in steps.values():
            waited(device, step, 3)
        launched = {name: launches(device, step) for name, step in steps.items()}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(blocks):
            for name, step in steps.items():
                seconds[name].append(waited(device, step, BLOCK) / BLOCK)
    for name, values in seconds.items():
        ratio = median(theirs / ours for ours, theirs in zip(values, seconds["author's loop"], strict=True))
        print(
            f"  {recipe}, {name:<32}{size / median(values):9.0f} images/s, launches: {launched[name]}, "
            f"{ratio:.2f} times the author's",
            flush=True,
        )


def main(*words: str) -> None:
    options = {"recipes": RECIPES, "device": "cuda", "blocks": "10"} | dict(word.split("=", 1) for word in words)
    device = torch.device(options["device"])
    if device.type == "cuda" and not torch.cuda.is_available():
        print("  NOT MEASURED: this machine has no CUDA device; device=cpu tries the benchmark out")
        return
    for recipe in options["recipes"].split(","):
        compare(recipe, device, int(options["blocks"]))
