"""A generator as a program that needs nothing of this project: of `torch.export`, or ONNX.

Both are the same graph, in float32 and for any number of images. TorchScript is not offered: torch's own
documentation calls it deprecated, in favour of `torch.export`
(https://docs.pytorch.org/docs/2.13/notes/cpu_threading_torchscript_inference.html).
"""

from __future__ import annotations

import copy
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pipelines.components import ConfigError, first_line
from service.artifacts.exports import ExportError, check_difference
from service.generator import DESCRIPTION, Generator
from service.tasks import one_hot

#: By format, what writing and checking one needs.
_PACKAGES: Mapping[str, tuple[str, ...]] = {"torch_export": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}
LABELS, IMAGES = "labels", "images"
#: Two, as a graph that is traced with one image is made for one.
_TRACED = 2
#: A program is tried on other numbers of images than it was traced with.
_TRIED = (1, 5)
Call = Callable[[Mapping[str, Tensor]], Tensor]


def check_packages(form: str) -> None:
    """Raise ConfigError if a package that the format needs is not installed."""
    for name in _PACKAGES[form]:
        if find_spec(name) is None:
            raise ConfigError(f"--format: {form} needs {name}, which is not installed: pip install 'selfgan[export]'")


def write(generator: Generator, form: str, file: Path) -> float:
    """Write the program to a file; returns how far its images are from the original's, which lie in [-1, 1].

    It takes what `inputs_of` gives, in that order (ONNX: by these names), and returns ``images``, (N, C, H, W). The
    file says so itself, and whatever the model says of itself: in ``description.json`` (`torch.export`), or as
    metadata ``description`` (ONNX).

    Raises:
        ExportError: the network cannot be written so, or the program makes other images. There is no file then.
        ConfigError: a package is missing.
    """
    check_packages(form)
    new = file.with_name(f"{file.stem}.new{file.suffix}")
    try:
        with _quiet():
            called = (_write_onnx if form == "onnx" else _write_torch_export)(generator, new)
        worst = max(_difference(generator, called, count) for count in _TRIED)
        check_difference(worst, f"{form} program")
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch names packages that are not needed, and deprecates calls of its own, while it exports."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def inputs_of(generator: Generator, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of a program for `count` images or more, by name.

    ``latents`` (N, D); ``labels``, where images have classes: (N,) int64, or (N, K) of 0 and 1 where they have several;
    ``source`` (N, C, H, W) in [-1, 1], where they are made of images; and a task's further ones.
    """
    inputs = _examples(generator, count, seed)
    if chosen := generator.task.chosen:
        classes = inputs.pop(chosen)
        inputs[LABELS] = classes if generator.task.several else classes.argmax(1)
    return {name: values.float() if values.is_floating_point() else values for name, values in inputs.items()}


def _examples(generator: Generator, count: int, seed: int) -> dict[str, Tensor]:
    if not generator.task.translates:
        return generator.task.examples(generator.network, seed, count, torch.device("cpu"))
    drawn = torch.rand(count, *generator.image, generator=torch.Generator().manual_seed(seed))
    return generator.task.translation(2 * drawn - 1)


class _Program(nn.Module):
    """A task's generator with one input for each thing it is given, and a class as a number."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.network = copy.deepcopy(generator.module).float()
        self._task = generator.task
        self._names = list(inputs_of(generator, 1))
        chosen = self._task.chosen
        self._kinds = _examples(generator, 1, 0)[chosen].shape[1] if chosen else 0

    def forward(self, *inputs: Tensor) -> Tensor:
        examples = dict(zip(self._names, inputs, strict=True))
        if self._kinds:
            labels = examples.pop(LABELS)
            several = self._task.several
            examples[self._task.chosen] = labels if several else one_hot(labels, self._kinds, torch.float32)
        return self._task.images(self.network, examples)


def _traced(generator: Generator) -> ExportedProgram:
    inputs = tuple(inputs_of(generator, _TRACED).values())
    count = Dim("N")
    shapes = {"inputs": tuple({0: count} for _ in inputs)}
    try:
        # Strict, as else the number of images would be fixed by a network that asks for ``len(x)``.
        return torch.export.export(_Program(generator).eval(), inputs, dynamic_shapes=shapes, strict=True)
    except Exception as error:  # Torch has many, for networks that look at values.
        raise ExportError(f"the network cannot be traced: {first_line(error)}") from error


def _write_torch_export(generator: Generator, file: Path) -> Call:
    torch.export.save(_traced(generator), file, extra_files={DESCRIPTION: _described(generator)})
    module = torch.export.load(file).module()
    return lambda inputs: module(*inputs.values())


def _write_onnx(generator: Generator, file: Path) -> Call:
    import onnxruntime

    traced = _traced(generator)
    try:
        names = list(inputs_of(generator, 1))
        program = torch.onnx.export(traced, dynamo=True, input_names=names, output_names=[IMAGES], verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"the network cannot be written as ONNX: {first_line(error)}") from error
    assert program is not None
    program.model.metadata_props["description"] = _described(generator)
    program.save(file, external_data=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(
        session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    )


def _difference(generator: Generator, called: Call, count: int) -> float:
    """The largest difference of a program's images from the original's; as a share of values beyond [-1, 1]."""
    with torch.inference_mode():
        examples = {name: values.to(generator.dtype) for name, values in _examples(generator, count, 0).items()}
        wanted = generator.task.images(generator.module, examples).double()
    with torch.no_grad():
        made = called(inputs_of(generator, count)).double()
    return float(((made - wanted).abs() / wanted.abs().clamp_min(1)).max()) if made.shape == wanted.shape else math.inf


def _described(generator: Generator) -> str:
    """What a file says of itself."""
    inputs = {
        name: {"shape": ["N", *values.shape[1:]], "type": str(values.dtype).removeprefix("torch.")}
        for name, values in inputs_of(generator, 1).items()
    }
    images = {"shape": ["N", *generator.image], "type": "float32", "range": [-1, 1]}
    return json.dumps({"inputs": inputs, "outputs": {IMAGES: images}, "model": dict(generator.described)})
