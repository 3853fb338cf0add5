"""Makes a model the champion if it is better: ``python -m pipelines.promote RECIPE MODEL [KEY=VALUE ...]``.

Candidate and champion are measured alike, on the data as they are now; what was measured before is not measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Literal

import ray
from rich.console import Console

from pipelines.evaluate import judge
from pipelines.evaluation import Features, Protocol, Tasks, Work, protocol
from pipelines.measured import Measured
from pipelines.policy import Decision, NotComparableError, decide
from pipelines.ray_tasks import on_devices
from pipelines.storage import Location, join
from pipelines.succession import Reign, Succession
from pipelines.verdicts import Verdict
from service import cluster, registry
from service.components import ConfigError
from service.config import Run, storage_root
from service.recipe import load
from service.tracking import TrackingError

CHAMPION, CHALLENGER = "champion", "challenger"


def succession_of(run: Run) -> Succession:
    """The champions of a run's registered model."""
    name, uri = run.model_name, run.tracking_uri
    return Succession(
        Location.of(join(storage_root(run.storage), f"promotions/{name}")),
        point=lambda version: registry.point(name, CHAMPION, version, uri),
        pointed=lambda: registry.pointed(name, CHAMPION, uri),
    )


def promote(judged: Protocol, version: str, tasks: Tasks[Work, Features]) -> tuple[Decision, Measured, Measured | None]:
    """Measure a candidate and the champion, decide, and act on it; returns the decision and both figures.

    Whoever loses a race compares with its winner.

    Raises:
        TrackingError: MLflow fails.
        ConfigError, NoModelError: a model cannot be measured.
    """
    run = judged.run
    name, uri, champions = run.model_name, run.tracking_uri, succession_of(run)
    candidate = judge(judged, f"models:/{name}/{version}", tasks)
    while True:
        reign = champions.current()
        if reign is not None and reign.version == version:  # An earlier attempt was killed after it had promoted.
            decision, reign = Decision(Verdict.PROMOTED, reign.reason), champions.former()
            champion = _judged_champion(judged, reign, tasks)
            break
        champion = _judged_champion(judged, reign, tasks)
        decision = decide(candidate, champion, run.promotion)
        if decision.verdict is not Verdict.PROMOTED:
            if decision.verdict is Verdict.HELD:
                registry.point(name, CHALLENGER, version, uri)
            break
        if champions.follow(reign, version, "figures", decision.reason):
            break
    told = {"promotion.verdict": decision.verdict.name.lower(), "promotion.reason": decision.reason}
    told |= {"promotion.against": reign.version} if reign else {}
    registry.tag(name, version, uri, told)
    return decision, candidate, champion


def _judged_champion(judged: Protocol, reign: Reign | None, tasks: Tasks[Work, Features]) -> Measured | None:
    """Its figures; None if there is none, or somebody has deleted it."""
    if reign is None:
        return None
    try:
        return judge(judged, f"models:/{judged.run.model_name}/{reign.version}", tasks)
    except registry.NoModelError:
        return None


def by_hand(run: Run, version: str) -> Reign:
    """Make a version the champion because a person says so."""
    return _set(run, lambda: version, "person", "a person has asked for it")


def rollback(run: Run) -> Reign:
    """Set the former champion again.

    Raises:
        ConfigError: there is none.
    """
    champions = succession_of(run)

    def former() -> str:
        found = champions.former()
        if found is None:
            raise ConfigError(f"{run.model_name}: there is no former champion to go back to")
        return registry.version_of(f"models:/{run.model_name}/{found.version}", run.tracking_uri)

    return _set(run, former, "rollback", "the former champion was asked for again")


def _set(run: Run, version: Callable[[], str], how: Literal["person", "rollback"], reason: str) -> Reign:
    champions = succession_of(run)
    while True:
        before = champions.current()
        if champions.follow(before, version(), how, reason):
            return champions.reigns()[-1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.promote",
        description="Measures a registered model and the champion, and makes it the champion if it is better.",
        epilog="exit codes: 10 promoted, 11 held (not better), 12 rejected (not sound), 1 failed, 2 wrongly asked",
    )
    parser.add_argument("recipe", help="its data, evaluation, promotion and model name count")
    parser.add_argument("model", nargs="?", help="models:/NAME/VERSION, models:/NAME@ALIAS or models:/NAME: the latest")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--by-hand", action="store_true", help="make it the champion without comparing")
    how.add_argument("--rollback", action="store_true", help="set the former champion again; takes no model")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns a `Verdict`."""
    from service.progress import console

    parser = _parser()
    chosen, rest = parser.parse_known_intermixed_args(arguments)
    words = [*([chosen.model] if chosen.model else []), *chosen.overrides, *rest]
    models = [word for word in words if "=" not in word]
    try:
        run = load(chosen.recipe, [word for word in words if "=" in word])
        if len(models) != (0 if chosen.rollback else 1):
            raise ConfigError("--rollback takes no model" if chosen.rollback else "which model? models:/NAME/VERSION")
        if chosen.rollback:
            print(f"champion: version {rollback(run).version} of {run.model_name}")
            return Verdict.PROMOTED
        version = _version(run, models[0])
        if chosen.by_hand:
            print(f"champion: version {by_hand(run, version).version} of {run.model_name}")
            return Verdict.PROMOTED
        return _by_figures(run, version, console())
    except (ConfigError, registry.NoModelError, NotComparableError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return Verdict.USER_ERROR
    except (TrackingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return Verdict.FAILED


def _version(run: Run, model: str) -> str:
    name = registry.ModelName.of(model).name
    if name != run.model_name:
        raise ConfigError(f"{model}: recipe {run.recipe} promotes {run.model_name}; tracking.model={name} changes that")
    return registry.version_of(model, run.tracking_uri)


def _by_figures(run: Run, version: str, console: Console) -> Verdict:
    try:
        cluster.connect(run.cluster)
        decision, _, _ = promote(protocol(run, console), version, on_devices)
    finally:
        ray.shutdown()
    print(f"{decision.verdict.name.lower()}: {decision.reason}")
    return decision.verdict


if __name__ == "__main__":
    sys.exit(main())
