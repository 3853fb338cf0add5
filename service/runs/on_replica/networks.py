"""A run's networks: built from its seed, made to follow the global batch, and put on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from service.configuration.config import Run
from service.models.pixels import to_image
from service.replicas.exact.layers import check_exact
from service.replicas.global_batch import GlobalBatch
from service.replicas.global_layers import follow_global_batch
from service.tasks import Task
from service.training.precision.bfloat16 import in_bfloat16

#: Images that are generated in one call, for people to look at.
_AT_ONCE = 64


def new_networks(run: Run, batch: GlobalBatch) -> tuple[nn.Module, nn.ModuleDict]:
    """Generator and critics, on the batch's device; their first weights depend on the seed alone."""
    digest = hashlib.blake2b(f"{run.seed}/weights".encode(), digest_size=8).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest, "little") >> 1)
        generator = run.task.generator(run.network, run.image)
        critics = run.critics.critics(run.task, run.network, run.image)
        for regularizer in run.regularizers:
            regularizer.prepare(critics)
        for regularizer in run.regularizers:
            regularizer.prepare_generator(generator)
    for network in (generator, critics):
        if any(isinstance(parameter, UninitializedParameter) for parameter in network.parameters()):
            raise TypeError("lazy layers take their weights at their first call, when no seed is set; give them sizes")
    generator = follow_global_batch(generator, batch, "generator")
    follow_global_batch(critics, batch, "critic")
    if run.exact:
        check_exact(generator, "generator")
        check_exact(critics, "critic")
    if run.dtype == "bfloat16":
        in_bfloat16(generator)
        in_bfloat16(critics)
    place = batch.device, run.torch_dtype
    return generator.to(*place), critics.to(*place)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within, the network uses its running statistics, drops nothing out and records no gradients."""
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train()


def images_of(
    generator: nn.Module, task: Task, examples: Mapping[str, Tensor], dtype: torch.dtype, shown: bool
) -> Tensor:
    """What a generator makes of examples, (N, C, H, W) uint8; `shown`, with what a person should see beside it."""
    made = []
    with evaluating(generator):
        for start in range(0, len(next(iter(examples.values()))), _AT_ONCE):
            part = {name: values[start : start + _AT_ONCE].to(dtype) for name, values in examples.items()}
            images = task.images(generator, part)
            made.append(to_image(task.shown(part, images) if shown else images))
    return torch.cat(made)
