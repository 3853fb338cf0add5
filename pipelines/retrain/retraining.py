"""One retraining: train on the data's newest version, evaluate, decide, act and report.

Every stage leaves a note in storage, so a retraining that was killed goes on where it was and registers nothing twice.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import ray
from rich.console import Console

from pipelines.components import ConfigError
from pipelines.data.ray_tasks import on_devices
from pipelines.data.shards import Manifest
from pipelines.evaluate import during_training
from pipelines.evaluate.protocol import protocol
from pipelines.exit_codes import ExitCode
from pipelines.promote.promotion import promote, succession_of
from pipelines.retrain.report import Outcome, write_report
from pipelines.storage.location import Location, join
from service.artifacts import registry
from service.configuration.config import Run, storage_root
from service.configuration.reading import from_tree
from service.configuration.tree import dump
from service.runs.driver import cluster, datasets
from service.runs.driver.launch import launch


@dataclass(frozen=True)
class Retraining:
    """One recipe on one version of its data.

    Attributes:
        run: with its data pinned to these versions.
        key: names recipe, steps and data.
        notes: the folder of what is done.
    """

    run: Run
    manifests: tuple[Manifest, ...]
    key: str
    notes: Location

    def note(self, name: str) -> dict[str, Any] | None:
        """What a stage has left, if it is done. Raises ConfigError: it is damaged."""
        file = self.notes / f"{name}.json"
        if not file.exists():
            return None
        try:
            return dict(json.loads(file.read()))
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{file} is damaged ({error}); delete it, and the same command does that again"
            ) from error

    def leave(self, name: str, what: dict[str, Any]) -> None:
        (self.notes / f"{name}.json").write(json.dumps(what, indent=1).encode())


def planned(run: Run, console: Console) -> Retraining:
    """What there is to do: the recipe on its data as they are now.

    Raises:
        ConfigError: the data cannot be had.
    """
    found = datasets.prepare_all(run, console)
    manifests = tuple(manifest for _, manifest in found)
    described = [run.recipe_hash, run.steps, run.retraining.start, *(manifest.hash for manifest in manifests)]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:12]
    notes = Location.of(join(storage_root(run.storage), f"retrainings/{run.model_name}/{key}"))
    pinned = datasets.pinned(run, found)
    return Retraining(pinned, manifests, key, notes)


def retrain(plan: Retraining, console: Console, began: float) -> ExitCode:
    """Train, evaluate, decide, act and report, from wherever that was left.

    Args:
        began: when the command did, in seconds since the epoch.

    Raises:
        ConfigError, RunError, TrackingError: as training, evaluating and promoting do.
    """
    judged = protocol(plan.run, console)  # What cannot be measured need not be trained.
    trained = plan.note("trained") or _train(plan, console, began)
    version = registry.ModelName.of(trained["model"]).version
    assert version is not None
    try:
        if not ray.is_initialized():
            cluster.connect(plan.run)
        decision, candidate, champion = promote(judged, version, on_devices)
    finally:
        ray.shutdown()
    outcome = Outcome(plan.run, plan.manifests, trained, decision, candidate, champion)
    write_report(outcome, plan.notes)
    plan.leave("verdict", {"verdict": decision.result.name, "reason": decision.reason, "model": trained["model"]})
    console.print(f"{decision.result.name.lower()}: {decision.reason}", highlight=False, soft_wrap=True)
    console.print(f"report: {plan.notes / 'report.md'}", highlight=False, soft_wrap=True)
    return decision.result


def _train(plan: Retraining, console: Console, began: float) -> dict[str, Any]:
    """Train, or go on with it; the start is chosen once, whoever becomes champion meanwhile."""
    begun = plan.note("begun")
    if begun is None:
        begun = {"name": f"retrain-{plan.run.recipe}-{plan.key}", **_start(plan.run, console)}
        plan.leave("begun", begun)
    before = (Location.of(join(storage_root(plan.run.storage), begun["name"])) / "run.json").exists()
    chosen = {"name": begun["name"], "resume": begun["name"] if before else None, "start_from": begun["start_from"]}
    model = launch(from_tree({**dump(plan.run), **chosen}), console, began, during_training.config).model
    trained = {**begun, "model": model}
    plan.leave("trained", trained)
    return trained


def _start(run: Run, console: Console) -> dict[str, Any]:
    """The checkpoint to start from, and the champion that it is of; both None to start from scratch."""
    reign = succession_of(run).current() if run.retraining.start == "champion" else None
    if reign is None:
        return {"start_from": dump(run)["start_from"], "champion": None}
    checkpoint = registry.checkpoint_of(run.model_name, reign.version, run.tracking_uri)
    if checkpoint is None or not (Location.of(checkpoint) / "state.json").exists():
        console.print(f"champion {reign.version} has no checkpoint any more; starting from scratch", highlight=False)
        return {"start_from": dump(run)["start_from"], "champion": None}
    return {"start_from": checkpoint, "champion": reign.version}
