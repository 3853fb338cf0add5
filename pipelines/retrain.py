"""Trains a recipe anew if its data have grown, and promotes what is better: ``python -m pipelines.retrain RECIPE``.

What a CronJob runs. Every stage leaves a note in storage, so that the same command goes on where it was killed,
registers nothing twice and is never at work twice at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from rich.console import Console

from pipelines.evaluation import protocol
from pipelines.lease import lease
from pipelines.policy import NotComparableError
from pipelines.promote import promote, succession_of
from pipelines.ray_tasks import on_devices
from pipelines.report import Outcome, write_report
from pipelines.shards import Manifest
from pipelines.storage import Location, join
from pipelines.verdicts import Verdict
from service import cluster, datasets, registry
from service.components import ConfigError
from service.config import Run, storage_root
from service.launch import RunError, launch
from service.recipe import load
from service.tracking import TrackingError

_BEGAN = time.time()
INTERRUPTED = 130


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
        """What a stage has left, if it is done."""
        file = self.notes / f"{name}.json"
        found: dict[str, Any] | None = json.loads(file.read()) if file.exists() else None
        return found

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


def retrain(plan: Retraining, console: Console) -> Verdict:
    """Train, evaluate, decide, act and report, from wherever that was left.

    Raises:
        ConfigError, RunError, TrackingError: as training, evaluating and promoting do.
    """
    judged = protocol(plan.run, console)  # What cannot be measured need not be trained.
    trained = plan.note("trained") or _train(plan, console)
    version = registry.ModelName.of(trained["model"]).version
    assert version is not None
    try:
        if not ray.is_initialized():
            cluster.connect(plan.run.cluster)
        decision, candidate, champion = promote(judged, version, on_devices)
    finally:
        ray.shutdown()
    outcome = Outcome(plan.run, plan.manifests, trained, decision, candidate, champion)
    write_report(outcome, plan.notes)
    plan.leave("verdict", {"verdict": decision.verdict.name, "reason": decision.reason, "model": trained["model"]})
    console.print(f"{decision.verdict.name.lower()}: {decision.reason}", highlight=False, soft_wrap=True)
    console.print(f"report: {plan.notes / 'report.md'}", highlight=False, soft_wrap=True)
    return decision.verdict


def _train(plan: Retraining, console: Console) -> dict[str, Any]:
    """Train, or go on with it; the start is chosen once, whoever becomes champion meanwhile."""
    begun = plan.note("begun")
    if begun is None:
        begun = {"name": f"retrain-{plan.run.recipe}-{plan.key}", **_start(plan.run, console)}
        plan.leave("begun", begun)
    before = (Location.of(join(storage_root(plan.run.storage), begun["name"])) / "run.json").exists()
    chosen = {"name": begun["name"], "resume": begun["name"] if before else None, "start_from": begun["start_from"]}
    model = launch(plan.run.model_copy(update=chosen), console, _BEGAN)
    trained = {**begun, "model": model}
    plan.leave("trained", trained)
    return trained


def _start(run: Run, console: Console) -> dict[str, Any]:
    """The checkpoint to start from, and the champion that it is of; both None to start from scratch."""
    reign = succession_of(run).current() if run.retraining.start == "champion" else None
    if reign is None:
        return {"start_from": run.start_from, "champion": None}
    checkpoint = registry.checkpoint_of(run.model_name, reign.version, run.tracking_uri)
    if checkpoint is None or not (Location.of(checkpoint) / "state.json").exists():
        console.print(f"champion {reign.version} has no checkpoint any more; starting from scratch", highlight=False)
        return {"start_from": run.start_from, "champion": None}
    return {"start_from": checkpoint, "champion": reign.version}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.retrain",
        description="Trains a recipe if its data have a version that it was not trained on; promotes what is better.",
        epilog="exit codes: 0 nothing new, 10 promoted, 11 held (not better), 12 rejected (not sound), 1 failed, "
        "2 wrongly asked. Killed, and started again, it goes on where it was.",
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as service/train.py takes them")
    parser.add_argument("--append", action="store_true", help="first add what is new in data.source to data.shards")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns a `Verdict`."""
    from service.progress import console as new_console

    chosen, rest = _parser().parse_known_intermixed_args(arguments)
    console = new_console()
    try:
        run = load(chosen.recipe, [*chosen.overrides, *rest])
        if run.name is not None or run.resume is not None:
            raise ConfigError("name, resume: a retraining names its runs by itself, and resumes them")
        return _guarded(run, chosen.append, console)
    except (ConfigError, NotComparableError, registry.NoModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return Verdict.USER_ERROR
    except (RunError, TrackingError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return Verdict.FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED


def _guarded(run: Run, append: bool, console: Console) -> Verdict:
    leases = Location.of(join(storage_root(run.storage), f"retrainings/{run.model_name}/leases"))
    with lease(leases, run.retraining.patience_seconds) as mine:
        if not mine:
            console.print(f"nothing to do: {run.recipe} is being retrained by another process", highlight=False)
            return Verdict.NOTHING_NEW
        if append:
            datasets.write(run, console, append=True)
        plan = planned(run, console)
        if before := plan.note("verdict"):
            versions = ", ".join(f"version {manifest.version}" for manifest in plan.manifests)
            console.print(
                f"nothing new: {run.recipe} was trained on {versions} of its data; "
                f"{before['model']} was {before['verdict'].lower()}: {before['reason']}",
                highlight=False,
                soft_wrap=True,
            )
            return Verdict.NOTHING_NEW
        return retrain(plan, console)


if __name__ == "__main__":
    sys.exit(main())
