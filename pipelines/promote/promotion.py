"""Candidate against champion: measured alike, compared by the policy, and the alias moved.

Both are measured on the data as they are now; what was measured before is not measured again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pipelines.components import ConfigError
from pipelines.evaluate.protocol import Protocol
from pipelines.evaluate.registered import judge
from pipelines.evaluate.sides import Tasks, Work
from pipelines.exit_codes import ExitCode
from pipelines.promote.decision import Decision, decide
from pipelines.promote.succession import Reign, Succession
from pipelines.quality.features import Features
from pipelines.quality.figures import Figures
from pipelines.storage.location import Location, join
from service.artifacts import registry, version_page
from service.configuration.config import Run, storage_root

CHAMPION, CHALLENGER = "champion", "challenger"


def succession_of(run: Run) -> Succession:
    """The champions of a run's registered model."""
    name, uri = run.model_name, run.tracking_uri
    return Succession(
        Location.of(join(storage_root(run.storage), f"promotions/{name}")),
        point=lambda version: registry.point(name, CHAMPION, version, uri),
        pointed=lambda: registry.pointed(name, CHAMPION, uri),
    )


def promote(judged: Protocol, version: str, tasks: Tasks[Work, Features]) -> tuple[Decision, Figures, Figures | None]:
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
            decision, reign = Decision(ExitCode.PROMOTED, reign.reason), champions.former()
            champion = _judged_champion(judged, reign, tasks)
            break
        champion = _judged_champion(judged, reign, tasks)
        decision = decide(candidate, champion, run.promotion)
        if decision.result is not ExitCode.PROMOTED:
            if decision.result is ExitCode.HELD:
                registry.point(name, CHALLENGER, version, uri)
            break
        if champions.follow(reign, version, "figures", decision.reason):
            break
    told = {"promotion.verdict": decision.result.name.lower(), "promotion.reason": decision.reason}
    told |= {"promotion.against": reign.version} if reign else {}
    against = f"Against version {reign.version}." if reign else "There was no champion to compare it with."
    said = [f"**{decision.result.name.lower()}**: {decision.reason}.", "", against]
    version_page.write_section(name, version, uri, "Promotion", said)
    version_page.tag_logged_model(name, version, uri, told)
    registry.tag(name, version, uri, told)
    return decision, candidate, champion


def _judged_champion(judged: Protocol, reign: Reign | None, tasks: Tasks[Work, Features]) -> Figures | None:
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
