"""A recipe and what overrides it -> a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import torch
import yaml

from pipelines.object_store import refuse_credentials
from pipelines.storage import Location
from service.components import ConfigError, name_of, nearest
from service.config import CIRCUMSTANCES, Run, dump, flatten, from_tree, storage_root
from service.tasks import Samples

DEFAULT_RECIPE = "digits"


def recipes() -> dict[str, str]:
    """Every recipe's name, and its first comment line."""
    folder = resources.files("service") / "recipes"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file.read_text().splitlines()[0].lstrip("# ") for file in files}


def load(recipe: str | None, overrides: Sequence[str] = ()) -> Run:
    """The run that a recipe and ``key=value`` overrides ask for; with ``resume=RUN``, that run's own.

    Raises:
        ConfigError: unknown recipe, key or value; parts that cannot be combined.
    """
    given = dict(_split(override) for override in overrides)
    storage = str(given.get("storage", Run.model_fields["storage"].default))
    stored = _stored(given["resume"], storage) if given.get("resume") else None
    # Overrides go on top of a resolved run, so that an option of a part the recipe does not mention can be set.
    tree = dump(stored or _recipe(recipe or DEFAULT_RECIPE))
    for path, value in sorted(given.items(), key=lambda item: item[0].count(".")):  # A part before its options.
        _apply(tree, path, value)
    run = from_tree(tree)
    check(run)
    if stored:
        _check_same(run, stored, recipe)
    return run


def _check_same(run: Run, stored: Run, recipe: str | None) -> None:
    """Raise ConfigError if `run` would not be the continuation of `stored`."""
    before = dict(flatten(dump(stored)))
    changed = [
        key
        for key, value in flatten(dump(run))
        if before.get(key) != value and key.partition(".")[0] not in CIRCUMSTANCES
    ]
    if recipe not in (None, stored.recipe):
        changed.append(f"recipe {recipe}")
    if changed:
        raise ConfigError(
            f"resume: {run.resume} is a run of {stored.recipe}; {', '.join(changed)} would make it another one"
        )


def _recipe(name: str) -> Run:
    known = recipes()
    if name not in known:
        raise ConfigError(f"recipe: there is no {name!r}; {nearest(name, known)} (--help lists them)")
    text = (resources.files("service") / "recipes" / f"{name}.yaml").read_text()
    return from_tree({"recipe": name, **yaml.safe_load(text)})


def _stored(name: str, storage: str) -> Run:
    """The configuration with which a run was started."""
    file = Location.of(storage_root(storage)) / str(name) / "run.json"
    try:
        return from_tree(json.loads(file.read()))
    except FileNotFoundError:
        raise ConfigError(f"resume: there is no run {name!r} in {storage} ({file} is missing)") from None


def check(run: Run) -> None:
    """Raise ConfigError, with the reason, if the parts cannot be combined."""
    try:
        run.task.check(run.network, run.image)
        run.critics.check(run.network, run.image)
        run.scheme.check(run.objective, run.batch.size, run.batch.shards)
        for term in run.terms:
            term.check()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    try:
        with torch.device("meta"):  # Every mistake in a network's options shows, and nothing is allocated.
            critics = _critics(run)
    except (ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(f"network: cannot be built with these options: {str(error).splitlines()[0]}") from error
    try:
        for critic, count in critics:
            run.scheme.check_critic(critic, count)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    outputs = min(count for _, count in critics) - run.task.heads
    if outputs < run.objective.least_outputs:
        raise ConfigError(
            f"objective {name_of(run.objective)} compares vectors of outputs, and the critic of network "
            f"{name_of(run.network)} has {outputs}; choose one that judges patches, or set network.patches=true"
        )
    if len(run.data.domains) + 1 != run.task.data_sets:
        raise ConfigError(
            f"data.domains: task {name_of(run.task)} takes {run.task.data_sets - 1} more data sets than data.source, "
            f"not {len(run.data.domains)}"
        )
    if run.task.needs_pairs and run.data.shards is None and len(run.data.source.columns) < 2:
        raise ConfigError(f"task {name_of(run.task)}: data.source {name_of(run.data.source)} has no pairs; take pairs")
    if not run.task.needs_pairs and any(term.needs_pairs for term in run.terms):
        raise ConfigError(f"terms: task {name_of(run.task)} has no true images to compare with; take task=paired")
    if run.network.last_stage(run.image) and (run.start_from or run.retraining.start == "champion"):
        raise ConfigError("start_from: networks that grow begin at their first stage; start from scratch")
    places = run.storage, run.loader.cache, run.evaluation.cache
    for uri in (run.data.shards, *(domain.shards for domain in run.data.domains), *places):
        refuse_credentials(uri or "")
    if run.batch.size % run.batch.shards:
        raise ConfigError(f"batch.shards: {run.batch.shards} does not divide batch.size, {run.batch.size}")
    if run.batch.size // run.batch.shards < 2 and not run.task.translates:
        raise ConfigError(f"batch.size: {run.batch.size} leaves fewer than two samples for each of the statistics")
    if run.replicas > run.batch.size:
        raise ConfigError(f"replicas: {run.replicas} replicas cannot share a batch of {run.batch.size}")
    if run.cluster.min_replicas and run.cluster.min_replicas > run.replicas:
        raise ConfigError(f"cluster.min_replicas: {run.cluster.min_replicas} is more than replicas={run.replicas}")


def _critics(run: Run) -> list[tuple[torch.nn.Module, int]]:
    """Critics, and how many numbers each gives an image."""
    run.task.generator(run.network, run.image)
    critics = run.critics.critics(run.task, run.network, run.image)
    for regularizer in run.regularizers:
        regularizer.prepare(critics)
    images = torch.empty(2, *run.image)
    seen = run.task.seen(Samples(images, torch.zeros(2, dtype=torch.int64), images, (images,)))
    found = []
    for name, seat in run.critics.seats(run.task.games).items():
        view = seen[seat.game]
        logits: torch.Tensor = critics[name](*(value for value in (view.images, view.given) if value is not None))
        found.append((critics[name], logits.shape[1]))
    return found


def _split(override: str) -> tuple[str, Any]:
    """``key=value`` -> the key, and the value as YAML."""
    path, found, text = override.partition("=")
    if not found or not path:
        raise ConfigError(f"{override!r}: overrides are written key=value")
    try:
        return path, yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {text!r} is no YAML value") from error


def _apply(tree: dict[str, Any], path: str, value: Any) -> None:
    """Put a value into nested mappings and lists; a part that is given by name alone gains its options."""
    *parents, last = path.split(".")
    place: Any = tree
    for parent in parents:
        key = _key(place, parent, path)
        inner = place.get(key) if isinstance(place, dict) else place[key]
        inner = {} if inner is None else {"name": inner} if isinstance(inner, str) else inner
        if not isinstance(inner, dict | list):
            raise ConfigError(f"{path}: {parent!r} has no options")
        place[key] = place = inner
    place[_key(place, last, path)] = value


def _key(place: dict[str, Any] | list[Any], name: str, path: str) -> Any:
    """What a part of a path names: a key, or an item of a list, by its name or number."""
    if isinstance(place, dict):
        return name
    names = [item.get("name") if isinstance(item, dict) else item for item in place]
    if name in names:
        return names.index(name)
    if not (name.isdigit() and int(name) < len(place)):
        known = [f"0 to {len(place) - 1}" if place else "it has none", *filter(None, names)]
        raise ConfigError(f"{path}: {name!r} is none of its items, {', '.join(known)}")
    return int(name)
