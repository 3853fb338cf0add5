"""A step, compiled for a slice of TPU v5e that is not there: libtpu compiles without a chip.

    python -m tests.xla.ahead_of_time TOPOLOGY ROWS RECIPE [KEY=VALUE ...]

where ROWS says how many of a batch each host reads, as 64 or 16,16,16,16. It prints what the chips tell one another in
a step, and what for. Tracing takes PJRT's CPU client and as many devices as the slice has chips, and XLA reads that
number once: a process for every size of slice, which the test starts.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.runtime as xr
from jax.experimental import topologies
from jaxlib import xla_client
from torch import Tensor, nn

from pipelines.loading.loader import open_loader
from service.artifacts import checkpoints
from service.configuration.recipe import load
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.replicas.accelerators.xla import Xla
from service.runs.on_replica.replica import Replica
from tests.training.test_recipes import made_up_for
from tests.xla.pod import Pod

_COLLECTIVE = re.compile("(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?")
_INSTRUCTION = re.compile(r"^ *(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$", re.MULTILINE)


class Part(NamedTuple):
    """One of the tensors that a collective handles at once: its shape on a chip, and what made it."""

    shape: str
    made_by: str
    source: str


class Collective(NamedTuple):
    kind: str
    parts: tuple[Part, ...]


def program_for(topology: str, tensors: Sequence[Tensor] = ()) -> str:
    """Every chip's program, as HLO, that libtpu makes of `tensors`, or of all that waits to be computed.

    `topology`, such as v5e:2x2, has as many chips as XLA has devices here.
    """
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    assert len(devices) == xr.global_runtime_device_count()
    options = xla_client.CompileOptions()
    build = options.executable_build_options
    options.num_partitions = build.num_partitions = len(devices)
    build.use_spmd_partitioning = True
    build.allow_spmd_sharding_propagation_to_output = [True]  # As torch_xla has it.
    build.device_assignment = xla_client.DeviceAssignment.create(np.arange(len(devices))[None])
    module, chips = xm.get_stablehlo_bytecode(list(tensors)), xla_client.DeviceList(tuple(devices))
    return str(devices[0].client.compile(module, chips, options).hlo_modules()[0].to_string())


def partitions(program: str) -> int:
    return int(re.findall(r"num_partitions=(\d+)", program)[0])


def collectives(program: str) -> list[Collective]:
    """What chips tell one another. The compiler merges many sums into one: a collective has parts."""
    found = _INSTRUCTION.findall(program)
    by_name = {name: (shape, rest) for name, shape, _, rest in found}
    return [
        Collective(kind[1], tuple(_part(name, by_name) for name in _operands(rest)))
        for _, _, opcode, rest in found
        if (kind := _COLLECTIVE.fullmatch(opcode))
    ]


def convolutions(program: str) -> list[tuple[str, ...]]:
    """Of each convolution, as which a TPU has matrix products too: the type of what it makes, and of its factors."""
    found = _INSTRUCTION.findall(program)
    types = {name: shape.partition("[")[0] for name, shape, _, _ in found}
    return [
        (types[name], *(types[factor] for factor in _operands(rest)))
        for name, _, opcode, rest in found
        if opcode == "convolution"
    ]


def _part(name: str, by_name: Mapping[str, tuple[str, str]]) -> Part:
    shape, rest = by_name[name]
    while "op_name=" not in rest and (before := _operands(rest)):
        rest = by_name[before[0]][1]  # A bitcast or a copy has no name of its own.
    made_by = re.search(r'op_name="(.*?)"', rest)
    source = re.search(r'source_file="(.*?)" source_line=(\d+)', rest)
    path = re.sub(r"\.\d+(?=/|$)", "", made_by[1]) if made_by else ""  # Scopes are numbered.
    return Part(re.sub(r"\{.*?\}", "", shape), path, f"{source[1]}:{source[2]}" if source else "")


def _operands(rest: str) -> list[str]:
    return re.findall(r"%([\w.-]+)", rest.split(")", 1)[0])


def purpose(part: Part) -> str:
    """What a collective's tensor is for."""
    backward = part.made_by.startswith("backward/")
    if "GlobalBatchNorm" in part.made_by:
        return "batch norm's gradient" if backward else "batch norm's statistics"
    if backward:
        return "gradients"
    if "randomness.py" in part.source:
        return "row numbers of draws"
    if "index_select" in part.made_by:
        return "order of rows"
    return "losses and weights" if "Loss" in part.made_by else part.made_by


def main(topology: str, rows: Sequence[int], recipe: str, words: Sequence[str]) -> None:
    run = load(recipe, words)
    with TemporaryDirectory() as folder:
        sets = made_up_for(run, Path(folder))
        xla = Pod(rows) if len(rows) > 1 else Xla()
        here, replica = (
            Replica(run, accelerator, *(open_loader(one, run.data.transform, run.batch.size, run.seed) for one in sets))
            for accelerator in (TorchDistributed(torch.device("cpu")), xla)
        )
        # The program that stays is the second step's, whose optimizer has a state. The first is not taken on emulated
        # chips, of which a few on a busy machine wait for each other for longer than XLA bears.
        here.step(0)
        checkpoints.save(here.state(1), Path(folder, "first"))
        replica.restore(checkpoints.load(Path(folder, "first"), replica.identity))
        here.close()
        torch_xla.sync()
        Xla.finish = lambda self: None  # type: ignore[method-assign]
        with named_after_modules():
            replica.step(1)
        program = program_for(topology)
        replica.close()
    found = collectives(program)
    print(json.dumps({
        "partitions": partitions(program),
        "bfloat16": len(re.findall(r"\bbf16\[", program)),
        "convolutions": convolutions(program),
        "collectives": [(one.kind, sorted({purpose(part) for part in one.parts})) for one in found],
        "parts": [(one.kind, *part) for one in found for part in one.parts],
    }))  # fmt: skip


@contextmanager
def named_after_modules() -> Iterator[None]:
    """Within, operations are named after their modules, in the backward pass too; compiling afterwards keeps names."""
    scopes: list[tuple[str, Any]] = []

    def enter(name: str) -> None:
        scopes.append((name, torch_xla._XLAC.profiler.scope_pusher(name)))

    def enter_backward(name: str, _: Any) -> None:
        enter(f"backward/{name}")

    def leave(*_: Any) -> None:
        scopes.pop()

    def leave_module(module: nn.Module, inputs: Any, output: Any) -> None:
        path = "/".join(name for name, _ in scopes)
        leave()
        outputs = output if isinstance(output, tuple) else (output,)
        nodes: list[Any] = [one.grad_fn for one in outputs if isinstance(one, Tensor)]
        while nodes:
            node = nodes.pop()
            if node is not None and "named" not in node.metadata:  # Modules within it have named theirs.
                node.metadata["named"] = True
                node.register_prehook(partial(enter_backward, f"{path}/{node.name()}"))
                node.register_hook(leave)
                nodes.extend(before for before, _ in node.next_functions)

    torch_xla._XLAC._set_ir_debug(True)
    hooks = [
        nn.modules.module.register_module_forward_pre_hook(lambda module, _: enter(type(module).__name__)),
        nn.modules.module.register_module_forward_hook(leave_module),
    ]
    try:
        with torch.autograd.set_multithreading_enabled(False):  # Scopes are a thread's own.
            yield
    finally:
        for hook in hooks:
            hook.remove()


if __name__ == "__main__":
    main(sys.argv[1], [int(count) for count in sys.argv[2].split(",")], sys.argv[3], sys.argv[4:])
