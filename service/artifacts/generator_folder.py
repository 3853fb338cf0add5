"""The generator of a run's state, as `service.generator.Generator.read` reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from service.artifacts.checkpoints import State, network_weights
from service.configuration.config import Run
from service.configuration.tree import dump
from service.generator import AVERAGE, GENERATOR, save


def write_generator(
    run: Run, state: State, folder: Path, about: Mapping[str, str], classes: Sequence[str] = ()
) -> None:
    """Write the generator of a run's state to a folder, with whatever else there is to say of it.

    Args:
        classes: what the data set's labels stand for, where it says so; left out where a task takes no labels.
    """
    weights = {name: _plain(run, tensors) for name in (GENERATOR, AVERAGE) if (tensors := network_weights(state, name))}
    described = dump(run)
    parts = {"network": described["network"], "task": described["task"], "transform": described["data"]["transform"]}
    named = {"classes": list(classes[: run.task.labels])} if classes and run.task.labels else {}
    save(folder, {**parts, "image": list(run.image), **named, **about}, weights)


def _plain(run: Run, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights that a generator computes with, where it makes them of others: what reads it builds a plain one."""
    generator = run.task.generator(run.network, run.image)
    for regularizer in run.regularizers:
        regularizer.prepare_generator(generator)
    made = [module for module in generator.modules() if is_parametrized(module)]
    if not made:
        return tensors
    generator.to(run.torch_dtype).load_state_dict(tensors)
    generator.eval()  # Power iterations go on in training.
    for module in made:
        for name in list(module.parametrizations):  # type: ignore[arg-type]
            remove_parametrizations(module, name)
    return generator.state_dict()
