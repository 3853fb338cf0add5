"""Who becomes champion: the decision, and promoters at the same time, killed, and overruled by people."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.exit_codes import ExitCode
from pipelines.promote.decision import NotComparableError, decide
from pipelines.promote.succession import Succession
from pipelines.quality.figures import Figures
from pipelines.quality.promotion_policy import Policy
from pipelines.storage.location import Location
from service.artifacts import registry

GOOD = Figures(
    fingerprint="a", samples=1000, fid=10, kid=0.02, kid_error=0.001, precision=0.7, recall=0.5, density=0.8,
    coverage=0.7, class_coverage=1.0,
)  # fmt: skip


def but(**changes: float | str | None) -> Figures:
    return GOOD.model_copy(update=changes)


@pytest.mark.parametrize(
    ("candidate", "champion", "verdict", "reason"),
    [
        (GOOD, None, ExitCode.PROMOTED, "this is the first: it has KID 0.02 and FID 10"),
        (but(kid=0.016), GOOD, ExitCode.PROMOTED, "better: KID 0.016 against 0.02"),
        (but(kid=0.018), GOOD, ExitCode.HELD, "not clearly better"),
        (but(kid=0.021), GOOD, ExitCode.HELD, "not clearly better"),
        (but(kid=0.010, fid=10.6), GOOD, ExitCode.HELD, "but FID 10.6 is worse than 10"),
        (but(kid=0.010, fid=10.4), GOOD, ExitCode.PROMOTED, "better"),
        (but(kid=0.001, fid=1, recall=0.01), GOOD, ExitCode.REJECTED, "collapsed: recall 0.010 is below 0.05"),
        (but(kid=0.001, fid=1, coverage=0.01), None, ExitCode.REJECTED, "collapsed: coverage"),
        (but(kid=0.001, class_coverage=0.3), GOOD, ExitCode.REJECTED, "collapsed: class_coverage"),
        (but(fid=math.nan), GOOD, ExitCode.REJECTED, "fid is nan"),
        (but(kid=-math.inf), GOOD, ExitCode.REJECTED, "kid is -inf"),
        (but(class_coverage=None, kid=0.01), but(class_coverage=None), ExitCode.PROMOTED, "better"),
        (but(kid=0.03), but(kid=0.02, recall=0.0), ExitCode.PROMOTED, "the champion is no longer sound"),
    ],
)
def test_the_decision_and_its_reason(
    candidate: Figures, champion: Figures | None, verdict: ExitCode, reason: str
) -> None:
    found = decide(candidate, champion, Policy())
    assert (found.result, reason in found.reason) == (verdict, True), found


def test_figures_of_different_evaluations_are_not_compared() -> None:
    with pytest.raises(NotComparableError, match="evaluate both alike"):
        decide(GOOD, but(fingerprint="b"), Policy())


def test_the_policy_is_the_users() -> None:
    assert decide(but(kid=0.018), GOOD, Policy(errors=1)).result is ExitCode.PROMOTED


@pytest.mark.parametrize(
    ("bars", "verdict", "reason"),
    [
        ({"first_kid": 0.02, "first_fid": 10}, ExitCode.PROMOTED, "this is the first"),
        ({"first_kid": 0.019}, ExitCode.HELD, "KID 0.02 is not good enough for one: promotion.first_kid=0.019"),
        ({"first_fid": 9}, ExitCode.HELD, "FID 10 is not good enough for one: promotion.first_fid=9"),
        ({"first_kid": 0.019, "least_recall": 0.6}, ExitCode.REJECTED, "collapsed"),
    ],
)
def test_a_policy_sets_a_bar_for_the_first_champion(bars: dict[str, float], verdict: ExitCode, reason: str) -> None:
    policy = Policy(**bars)
    found = decide(GOOD, None, policy)
    assert (found.result, reason in found.reason) == (verdict, True), found


def test_the_bar_for_the_first_champion_is_not_one_for_the_next() -> None:
    assert decide(but(kid=0.016), GOOD, Policy(first_kid=0.001, first_fid=1)).result is ExitCode.PROMOTED


class Registry:
    """A model of 20 versions in MLflow, on SQLite."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.folder = Location.of(str(folder / "promotions" / "model"))
        server = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        server.create_registered_model("model")
        for _ in range(20):
            server.create_model_version("model", str(folder))

    @property
    def champion(self) -> str | None:
        return registry.pointed("model", "champion", self.uri)

    def set(self, version: str) -> None:
        registry.point("model", "champion", version, self.uri)

    def succession(self, point: Callable[[str], None] | None = None) -> Succession:
        return Succession(self.folder, point or self.set, lambda: self.champion)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def models(shared: Registry, tmp_path: Path) -> Registry:
    """The same MLflow, with no champion yet."""
    shared.folder = Location.of(str(tmp_path / "promotions"))
    MlflowClient(tracking_uri=shared.uri, registry_uri=shared.uri).delete_registered_model_alias("model", "champion")
    return shared


def test_of_promoters_at_once_the_best_model_wins(models: Registry) -> None:
    together = threading.Barrier(8)

    def promote_if_larger(version: int) -> None:
        champions = models.succession()
        together.wait()
        while True:
            reign = champions.current()
            if reign is not None and int(reign.version) >= version:
                return
            if champions.follow(reign, str(version), "figures", "larger"):
                return

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(promote_if_larger, range(1, 9)))
    assert models.champion == "8"
    reigns = models.succession().reigns()
    assert [int(reign.version) for reign in reigns] == sorted(int(reign.version) for reign in reigns)
    assert [reign.number for reign in reigns] == list(range(1, len(reigns) + 1))


def test_a_slow_promoter_does_not_bring_an_older_champion_back(models: Registry) -> None:
    def slowly(version: str) -> None:
        if version == "1":  # Meanwhile another one is faster.
            assert models.succession().follow(models.succession().reigns()[-1], "2", "figures", "better")
        models.set(version)

    assert models.succession(slowly).follow(None, "1", "figures", "first")
    assert models.champion == "2"


def test_the_loser_of_a_race_is_told(models: Registry) -> None:
    champions = models.succession()
    assert champions.follow(None, "1", "figures", "first")
    assert not champions.follow(None, "2", "figures", "first too")
    assert models.champion == "1"


def test_what_a_killed_promoter_has_begun_is_finished(models: Registry) -> None:
    def killed(version: str) -> None:
        raise KeyboardInterrupt

    assert models.succession().follow(None, "1", "figures", "first")
    with pytest.raises(KeyboardInterrupt):
        models.succession(killed).follow(models.succession().current(), "2", "figures", "better")
    assert models.champion == "1"
    reign = models.succession().current()
    assert reign and reign.version == "2" and models.champion == "2"


def test_a_request_that_arrives_late_does_not_bring_an_older_champion_back(models: Registry) -> None:
    champions = models.succession()
    for version in ("1", "2"):
        assert champions.follow(champions.current(), version, "figures", "better")
    models.set("1")
    reign = models.succession().current()
    assert reign and (reign.number, reign.version) == (2, "2")
    assert models.champion == "2"


def test_a_person_may_set_the_alias_to_a_new_version_in_mlflow(models: Registry) -> None:
    models.set("5")  # Before there was any promoter.
    first = models.succession().current()
    assert first and (first.version, first.how) == ("5", "person")
    models.set("6")
    again = models.succession().current()
    assert again and (again.number, again.version, again.how) == (2, "6", "person")


def test_rollbacks_go_back_and_back(models: Registry) -> None:
    champions = models.succession()
    assert champions.former() is None
    for version in ("1", "2", "2", "3"):
        assert champions.follow(champions.current(), version, "figures", "better")
    for expected in ("2", "1"):
        former = champions.former()
        assert former and former.version == expected
        assert champions.follow(champions.current(), former.version, "rollback", "asked for")
    assert champions.former() is None
    assert champions.follow(champions.current(), "4", "figures", "better")
    former = champions.former()
    assert former and former.version == "1"


def test_figures_that_are_not_finite_can_be_noted_and_read() -> None:
    noted = but(fid=math.nan, kid=math.inf).model_dump_json()
    found = Figures.model_validate_json(noted)
    assert math.isnan(found.fid) and found.kid == math.inf
