"""Checkpoints: everything that continues, in one folder that any number of replicas can go on from.

``networks.safetensors``, ``rows.safetensors`` (state kept per row of the global batch, such as the previous
step's images) and ``shared.safetensors`` (state that is alike on every replica, such as pools) hold tensors,
``optimizers.pt`` the optimizers' state, ``state.json`` the step and what the run was. Order and noise are
functions of (seed, step), and are not here.

``state.json`` is written last and names the size and hash of every other file: a folder that has it is complete,
and one that does not agree with it is damaged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.components import ConfigError
from pipelines.storage.location import Location
from service.configuration.reading import from_tree

_NETWORKS, _ROWS, _SHARED = "networks.safetensors", "rows.safetensors", "shared.safetensors"
_OPTIMIZERS, MARKER = "optimizers.pt", "state.json"
FORMAT = 2


@dataclass(frozen=True)
class State:
    """A run after `step` steps, on the host.

    Attributes:
        networks: tensors by ``generator.*``, ``critic.*`` and, where there is one, ``average.*``.
        optimizers: their state dicts by name.
        rows: (batch size, ...) tensors by name.
        shared: tensors that are the same on every replica, such as pools, by name.
        identity: what must be equal for the run to go on: hashes of recipe and data set.
        run: the resolved configuration.
        arithmetic: of the machine that made it; another one's may round otherwise.
        written: when it was published, as ISO 8601; empty if it was not, or by an earlier version.
        replicas: how many the run was on then; 0 where that is not known.
    """

    step: int
    networks: Mapping[str, Tensor]
    optimizers: Mapping[str, Any]
    rows: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    identity: Mapping[str, str]
    run: Mapping[str, Any]
    arithmetic: str = ""
    written: str = ""
    replicas: int = 0


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be continued from; its text is the one line to show."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose files are not those that were written."""


class UnreadableCheckpointError(CheckpointError):
    """A checkpoint that may be whole, but that this machine cannot read now."""


def name_of(step: int) -> str:
    """The folder of a checkpoint, in that of its run."""
    return f"step-{step:08}"


def save(state: State, folder: Path) -> None:
    """Write `state` to a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_contiguous(state.networks), folder / _NETWORKS)
    save_file(_contiguous(state.rows), folder / _ROWS)
    save_file(_contiguous(state.shared), folder / _SHARED)
    torch.save(dict(state.optimizers), folder / _OPTIMIZERS)
    described = {
        "format": FORMAT,
        "step": state.step,
        "identity": dict(state.identity),
        "run": dict(state.run),
        "arithmetic": state.arithmetic,
    }
    (folder / MARKER).write_text(json.dumps(described, indent=2))


def seal(folder: Path, replicas: int = 0) -> None:
    """Write into the marker what the other files are, so that damage is found, and when that was. It reads them once.

    Args:
        replicas: how many the run is on, where that is known.
    """
    described = json.loads((folder / MARKER).read_text())
    described |= {"written": datetime.now(UTC).isoformat(timespec="seconds"), "replicas": replicas}
    described["files"] = {file.name: _described(file) for file in sorted(folder.iterdir()) if file.name != MARKER}
    new = folder / f"{MARKER}.new"
    new.write_text(json.dumps(described, indent=2))
    new.replace(folder / MARKER)


def load(folder: Path, identity: Mapping[str, str] | None = None) -> State:
    """Read a checkpoint.

    Args:
        identity: that of the run that wants to go on, if it must match.

    Raises:
        DamagedCheckpointError: a file is missing, or is not what was written.
        UnreadableCheckpointError: this machine cannot read it; another time it may.
        CheckpointError: it is of another recipe or data set.
    """
    whole = False
    try:
        described = json.loads((folder / MARKER).read_text())
        _check_files(folder, described.get("files", {}))
        whole = "files" in described  # What agrees with its hashes is not damaged, whatever its readers say.
        if described["format"] != FORMAT:
            raise CheckpointError(f"checkpoint {folder}: format {described['format']}, this version reads {FORMAT}")
        state = State(
            step=described["step"],
            networks=load_file(folder / _NETWORKS),
            optimizers=torch.load(folder / _OPTIMIZERS, weights_only=True, map_location="cpu"),
            rows=load_file(folder / _ROWS),
            shared=load_file(folder / _SHARED),
            identity=described["identity"],
            run=described["run"],
            arithmetic=described.get("arithmetic", ""),
            written=described.get("written", ""),
            replicas=described.get("replicas", 0),
        )
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # Every reader has errors of its own; nearly all of them mean the same here.
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if whole:
            raise UnreadableCheckpointError(
                f"checkpoint {folder} is whole, but this machine cannot read it: {reason}"
            ) from error
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise UnreadableCheckpointError(f"checkpoint {folder} cannot be read: {error}") from error
        raise DamagedCheckpointError(f"checkpoint {folder} is damaged: {reason}") from error
    if identity is not None:
        # The recipe is asked anew: options that did not exist when the run was started have their defaults.
        made_with = {**state.identity, "recipe": _recipe_hash(state, folder)}
        for what, value in identity.items():
            if made_with.get(what) != value:
                raise CheckpointError(
                    f"checkpoint {folder} was made with another {what} ({made_with.get(what)}, not {value}): "
                    "resume with the options the run was started with"
                )
    return state


def fetch(place: Location, folder: Path, identity: Mapping[str, str] | None = None) -> State:
    """Read a checkpoint from wherever it lies; `folder` is an empty one to copy it to.

    Raises:
        CheckpointError: there is none, or as `load` does.
    """
    try:
        Location.of(str(folder)).copy_from(place)
    except FileNotFoundError as error:  # Another attempt would not find it either.
        raise CheckpointError(f"checkpoint {place} cannot be read: {error}") from error
    except OSError as error:
        raise UnreadableCheckpointError(f"checkpoint {place} cannot be read: {error}") from error
    return load(folder, identity)


def _described(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, partial(hashlib.blake2b, digest_size=16)).hexdigest()
    return {"bytes": file.stat().st_size, "blake2b": digest}


def _check_files(folder: Path, described: Mapping[str, Any]) -> None:
    """Raise DamagedCheckpointError if a file is not what the marker says; earlier versions said nothing."""
    for name, wanted in described.items():
        size = (folder / name).stat().st_size
        if size != wanted["bytes"]:
            raise DamagedCheckpointError(
                f"checkpoint {folder} is damaged: {name} has {size:,} of {wanted['bytes']:,} bytes"
            )
        if _described(folder / name) != wanted:
            raise DamagedCheckpointError(f"checkpoint {folder} is damaged: {name} has other bytes than were written")


def _recipe_hash(state: State, folder: Path) -> str:
    try:
        return from_tree(state.run).recipe_hash
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {folder}: its run is not one of this version: {error}") from error


def network_weights(state: State, part: str) -> dict[str, Tensor]:
    """One network's tensors, by the names of its own state dict."""
    own = f"{part}."
    return {name.removeprefix(own): value for name, value in state.networks.items() if name.startswith(own)}


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
