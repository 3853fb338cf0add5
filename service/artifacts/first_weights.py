"""What a run starts from: a checkpoint of ours, or weights that other code has written.

The latter are state dicts of plain PyTorch, or safetensors, such as the SelfGAN author's notebooks and PyTorch-GAN
write. Only tensors are read: a file that holds code is refused, and never run. Names are matched as they are, or
without what all of them begin with (``module.``, ``generator.``); else by order, where every tensor has the kind and
the shape of its counterpart. Anything else is refused with what does not fit.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pipelines.components import ConfigError, first_line
from pipelines.storage.location import Location
from service.artifacts import checkpoints
from service.artifacts.checkpoints import MARKER, CheckpointError, State
from service.configuration.config import FirstWeights, Run, storage_root

_ENDINGS = (".pt", ".pth", ".safetensors")
#: What code in the field calls a network that is saved with others, by what it is here.
_CALLED = {"generator": ("generator", "netG", "G"), "critic": ("critic", "discriminator", "netD", "D")}
#: Counts that torch before 0.4.1 did not keep, and that only batch norm without a momentum looks at.
_OPTIONAL = "num_batches_tracked"
_SHOWN = 3
Tensors = Mapping[str, Tensor]


def checked(run: Run) -> Run:
    """The run, whose replicas find what it starts from wherever they work.

    Raises:
        ConfigError: there is nothing, or it does not fit.
    """
    start = _absolute(run.start_from)
    if start is None:
        return run
    if isinstance(start, str) and not _bare_uri(start).endswith(_ENDINGS):
        if not (Location.of(start) / MARKER).exists():
            raise ConfigError(
                f"start_from: there is no checkpoint at {start} (files of weights end in {', '.join(_ENDINGS)})"
            )
        return run.model_copy(update={"start_from": start})
    generator, critics = (
        run.task.generator(run.network, run.image),
        run.critics.critics(run.task, run.network, run.image),
    )
    for regularizer in run.regularizers:
        regularizer.prepare(critics)
        regularizer.prepare_generator(generator)
    try:
        read(start, {"generator": generator, "critic": critics}, lambda _: None)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    return run.model_copy(update={"start_from": start})


def _bare_uri(uri: str) -> str:
    return uri.partition("?")[0]


def _absolute(start: str | FirstWeights | None) -> str | FirstWeights | None:
    if isinstance(start, FirstWeights):
        return FirstWeights(**{part: storage_root(file) for part, file in start.files.items()})
    return storage_root(start) if start is not None else None


def read(start: str | FirstWeights, networks: Mapping[str, nn.Module], tell: Callable[[str], None]) -> State:
    """What a run is to start from, of which it takes the networks alone.

    Args:
        networks: the run's ``generator`` and ``critic``, into which weights of other code must fit.
        tell: hears in a line where tensors were matched by order and not by name.

    Raises:
        CheckpointError: it cannot be read, or does not fit.
    """
    if isinstance(start, str) and not _bare_uri(start).endswith(_ENDINGS):
        with tempfile.TemporaryDirectory() as copy:
            return checkpoints.fetch(Location.of(start), Path(copy))
    found: dict[str, Tensor] = {}
    for part, file, tensors in _files(start):
        wanted = networks[part].state_dict()
        matched = _by_name(tensors, wanted)
        if matched is None:
            matched = _by_order(tensors, wanted)
            if matched is None:
                raise CheckpointError(f"start_from: {file} does not fit this run's {part}: {_misfit(tensors, wanted)}")
            tell(f"start_from: the names in {file} are not this run's {part}'s; matched by their order, kind and shape")
        found |= {f"{part}.{name}": value for name, value in matched.items()}
    return State(step=0, networks=found, optimizers={}, rows={}, shared={}, identity={}, run={})


def _files(start: str | FirstWeights) -> Iterator[tuple[str, str, Tensors]]:
    """(network, file, tensors). A single file is a generator's, unless it holds a critic as well."""
    if isinstance(start, FirstWeights):
        for part, file in start.files.items():
            held = _networks(_content(file), file)
            yield part, file, held.get(part) or held[""]
        return
    held = _networks(_content(start), start)
    yield "generator", start, held.get("generator") or held[""]
    if "critic" in held:
        yield "critic", start, held["critic"]


def _content(file: str) -> Any:
    """Of a file, without running any code that may be in it."""
    try:
        content = Location.of(file).read()
    except OSError as error:
        raise CheckpointError(f"start_from: {file} cannot be read: {error}") from error
    try:
        if _bare_uri(file).endswith(".safetensors"):
            return safetensors.torch.load(content)
        return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except UnpicklingError as error:
        raise CheckpointError(
            f"start_from: {file} is damaged, or holds more than weights, and code is not run; write it by "
            "torch.save(network.state_dict(), FILE)"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"start_from: {file} is damaged, or no file of weights: {first_line(error)}") from error


def _networks(content: Any, file: str) -> dict[str, Tensors]:
    """The networks in a file, by part; under no name, one that the file does not name."""
    if isinstance(content, Mapping):
        if content and all(isinstance(value, Tensor) for value in content.values()):
            flat: dict[str, Tensors] = {"": content}
            return flat | _named_by_prefix(content)
        held: dict[str, Tensors] = {
            part: content[name]
            for part, names in _CALLED.items()
            for name in reversed(names)
            if isinstance(content.get(name), Mapping)
        }
        if held:
            return {"": next(iter(held.values())), **held} if len(held) == 1 else held
        if isinstance(content.get("state_dict"), Mapping):
            return _networks(content["state_dict"], file)
    known = ", ".join(name for names in _CALLED.values() for name in names)
    raise CheckpointError(f"start_from: {file} holds no state dict, nor one under a known name ({known}, state_dict)")


def _named_by_prefix(tensors: Tensors) -> dict[str, Tensors]:
    """The networks of a flat state dict whose names begin with theirs, where it holds both."""
    held: dict[str, Tensors] = {}
    for part, names in _CALLED.items():
        for name in names:
            own = {key: value for key, value in tensors.items() if key.startswith(f"{name}.")}
            if own:
                held[part] = own
    return held if len(held) > 1 and sum(map(len, held.values())) == len(tensors) else {}


def _by_name(found: Tensors, wanted: Tensors) -> dict[str, Tensor] | None:
    """The tensors by the names that are wanted, where they say which is which."""
    ours = {_bare(wanted, name): name for name in wanted}
    theirs = {_bare(found, name): value for name, value in found.items()}
    if theirs.keys() - ours.keys() or any(not name.endswith(_OPTIONAL) for name in ours.keys() - theirs.keys()):
        return None
    named = {name: theirs.get(bare, wanted[name]) for bare, name in ours.items()}
    return named if all(named[name].shape == wanted[name].shape for name in wanted) else None


def _by_order(found: Tensors, wanted: Tensors) -> dict[str, Tensor] | None:
    """The tensors one after the other, where kinds and shapes agree throughout, and layers stay layers."""
    counted = any(name.endswith(_OPTIONAL) for name in found)
    ours = [name for name in wanted if counted or not name.endswith(_OPTIONAL)]
    if len(ours) != len(found):
        return None
    layers: dict[str, str] = {}
    for (theirs, value), name in zip(found.items(), ours, strict=True):
        (their_layer, _, their_kind), (layer, _, kind) = theirs.rpartition("."), name.rpartition(".")
        if kind != their_kind or value.shape != wanted[name].shape or layers.setdefault(their_layer, layer) != layer:
            return None
    if len(set(layers.values())) != len(layers):
        return None
    return {**wanted, **dict(zip(ours, found.values(), strict=True))}


def _bare(tensors: Tensors, name: str) -> str:
    """A name without what all of them begin with."""
    return name.removeprefix(_common(tensors))


def _common(tensors: Tensors) -> str:
    first, *others = [name.split(".")[:-1] for name in tensors]
    count = 0
    while count < len(first) and all(other[: count + 1] == first[: count + 1] for other in others):
        count += 1
    return "".join(f"{part}." for part in first[:count])


def _misfit(found: Tensors, wanted: Tensors) -> str:
    """What does not fit, in a phrase: by name, or by order where no name is the same."""
    ours = {_bare(wanted, name): tuple(value.shape) for name, value in wanted.items() if not name.endswith(_OPTIONAL)}
    theirs = {_bare(found, name): tuple(value.shape) for name, value in found.items() if not name.endswith(_OPTIONAL)}
    if ours.keys() & theirs.keys():
        pairs = [(name, name) for name in theirs if name in ours]
    else:
        pairs = list(zip(theirs, ours, strict=False))
    differ = [f"{a} {theirs[a]} for {b} {ours[b]}" for a, b in pairs if theirs[a] != ours[b]]
    extra = [f"{name} {theirs[name]}" for name in theirs if name not in {a for a, _ in pairs}]
    missing = [f"{name} {ours[name]}" for name in ours if name not in {b for _, b in pairs}]
    said = {"other shapes: ": differ, "more there: ": extra, "not there: ": missing}
    told = [f"{what}{_some(parts)}" for what, parts in said.items() if parts]
    return "; ".join(told) or "its layers are of other kinds, or in another order"


def _some(parts: list[str]) -> str:
    rest = len(parts) - _SHOWN
    return ", ".join(parts[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
