"""A run ends early where its recorded figures say so: at the same step on any number of replicas, and after resumes."""

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train

from pipelines.components import ConfigError
from pipelines.quality.early_stop import EarlyStop, Ended, ends_at
from pipelines.quality.figures import Figures
from pipelines.storage.location import Location
from service.artifacts import run_checkpoints, run_figures
from service.configuration.recipe import load
from service.runs.driver import unmeasured
from service.runs.driver.unmeasured import Unmeasured
from service.runs.early_stop import EarlyStops
from service.runs.on_replica.agreement import Agreement, Left
from service.tracking.progress import Status, StatusActor
from tests.runs.test_runs import final, options, train

MEASURED = ["evaluation.during_training=true", "evaluation.samples=200", "checkpoints.every=10"]


@pytest.mark.parametrize(
    ("stop", "figures", "expected"),
    [
        ({"patience": 2}, {10: 5.0, 20: 4.0, 30: 4.0, 40: 4.5}, Ended(50, 20, 4.0)),
        ({"patience": 2}, {10: 5.0, 20: 4.0, 30: 4.0, 40: 3.9}, None),
        ({"patience": 2, "least": 0.1}, {10: 5.0, 20: 4.0, 30: 4.0, 40: 3.9}, Ended(50, 20, 4.0)),
        ({"patience": 1}, {10: -1.0, 20: -1.1, 30: -0.9}, Ended(40, 20, -1.1)),
        ({"patience": 1, "least": 0.2}, {10: -1.0, 20: -1.1}, Ended(30, 10, -1.0)),
        ({"patience": 1, "figure": "precision"}, {10: 0.1, 20: 0.2, 30: 0.1}, Ended(40, 20, 0.2)),
        # A checkpoint that the clock has made, and one whose evaluation failed.
        ({"patience": 2}, {10: 5.0, 15: 1.0, 20: 6.0, 25: 7.0}, None),
        ({"patience": 2}, {10: 5.0, 30: 6.0, 40: 7.0}, Ended(50, 10, 5.0)),
        ({"patience": 2}, {10: math.nan, 20: 5.0, 30: math.inf, 40: math.nan}, Ended(50, 20, 5.0)),
        ({"patience": 1}, {}, None),
    ],
)
def test_a_run_ends_when_nothing_better_was_found(
    stop: dict[str, Any], figures: dict[int, float], expected: Ended | None
) -> None:
    rule = EarlyStop.model_validate(stop)
    assert ends_at(rule, figures, 10, until=100) == expected
    if expected is None:
        return
    assert ends_at(rule, figures, 10, until=expected.step - 10) is None
    # What is measured afterwards, such as the last checkpoint, does not undo it.
    assert ends_at(rule, {**figures, expected.step: -100.0}, 10, until=100) == expected


def test_figures_that_are_no_numbers_end_a_run_too() -> None:
    ended = ends_at(EarlyStop(patience=2), {10: math.nan, 20: math.nan}, 10, until=30)
    assert ended is not None and (ended.step, ended.best_step) == (30, None)
    text = EarlyStops(EarlyStop(patience=2), 10, Location.of("/nowhere")).text(ended)
    assert text.startswith("ending early at step 30: kid is no number")


def figures(kid: float, fingerprint: str = "one") -> Figures:
    rest = dict.fromkeys(("fid", "kid_error", "precision", "recall", "density", "coverage"), 1.0)
    return Figures(fingerprint=fingerprint, samples=20, kid=kid, **rest)


def checkpoint(run: Location, step: int, waits: bool = True) -> None:
    place = run / f"step-{step:08}"
    if waits:
        (place / run_checkpoints.UNMEASURED).write(b"")
    (place / "state.json").write(b"{}")


def test_a_checkpoint_is_settled_when_it_was_measured_or_never_will_be(tmp_path: Path) -> None:
    run = Location.of(str(tmp_path))
    assert not run_figures.settled(run, 10), "it is still to be written"
    checkpoint(run, 10)
    assert not run_figures.settled(run, 10)
    run_checkpoints.measured(run, 10)
    assert run_figures.settled(run, 10), "that failed"
    checkpoint(run, 20)
    run_figures.note(run, 20, figures(3.0))
    assert run_figures.settled(run, 20)
    for step in (10, 20):
        (run / f"step-{step:08}").delete()
    checkpoint(run, 30)
    assert run_figures.settled(run, 10), "it has been, and a newer one is there"


def test_figures_of_another_evaluation_are_not_compared(tmp_path: Path) -> None:
    run = Location.of(str(tmp_path))
    assert run_figures.noted(run) == {}
    run_figures.note(run, 10, figures(1.0, "other"))
    for step, kid in ((20, 2.0), (30, 3.0)):
        run_figures.note(run, step, figures(kid))
    assert {step: found.kid for step, found in run_figures.noted(run).items()} == {20: 2.0, 30: 3.0}


class Meeting:
    """One replica's agreement, with a status that is at hand."""

    def __init__(self, run: Location, monkeypatch: pytest.MonkeyPatch, start: int = 0) -> None:
        self.actor, self.sleeps = StatusActor(), 0
        context = SimpleNamespace(get_world_size=lambda: 1, get_world_rank=lambda: 0)
        monkeypatch.setattr(ray.train, "get_context", lambda: context)
        monkeypatch.setattr(ray.train, "get_preemption_info", lambda: None)
        monkeypatch.setattr(ray, "get", lambda found, timeout=None: found)
        monkeypatch.setattr(time, "sleep", self._sleep)
        self.then: Any = lambda: pytest.fail("nobody should wait")
        status: Any = SimpleNamespace(
            **{name: SimpleNamespace(remote=getattr(self.actor, name)) for name in ("leave", "notice", "wait", "say")}
        )
        self.agreement = Agreement(status, None, start, EarlyStops(EarlyStop(patience=1), 10, run))

    def _sleep(self, _: float) -> None:
        self.sleeps += 1
        assert self.actor.read().waits_since is not None
        self.then()


def test_replicas_wait_for_the_evaluation_before_they_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Location.of(str(tmp_path))
    meeting = Meeting(run, monkeypatch)
    for step in range(1, 20):
        assert meeting.agreement.wish(step).leave is None
    checkpoint(run, 10)
    meeting.then = lambda: run_figures.note(run, 10, figures(3.0))
    assert meeting.agreement.wish(20).leave is None
    assert meeting.sleeps == 1 and meeting.actor.read().waits_since is None
    run_figures.note(run, 20, figures(4.0))
    assert meeting.agreement.wish(30).leave == "figure"
    assert meeting.actor.read().said == [
        "ending early at step 30: kid was best at step 10 (3), and the next evaluation found nothing better "
        "(evaluation.stop)"
    ]


def test_who_goes_on_finds_that_the_run_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Location.of(str(tmp_path))
    for step, kid in ((10, 3.0), (20, 4.0), (30, 1.0)):
        checkpoint(run, step, waits=False)
        run_figures.note(run, step, figures(kid))
    assert Meeting(run, monkeypatch, start=30).agreement.ended_before(30) == Left(30, "figure")
    assert Meeting(run, monkeypatch, start=20).agreement.ended_before(20) is None
    assert Meeting(run, monkeypatch).agreement.ended_before(0) is None


def test_who_is_to_leave_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Location.of(str(tmp_path))
    checkpoint(run, 10)
    meeting = Meeting(run, monkeypatch)
    meeting.then = meeting.actor.ask
    assert meeting.agreement.wish(20).leave == "asked"


def test_what_nobody_measures_is_started_again_and_given_up_at_last(tmp_path: Path) -> None:
    run, begun, said = Location.of(str(tmp_path)), [], list[str]()
    checkpoint(run, 10)
    status: Any = SimpleNamespace(warn=SimpleNamespace(remote=said.append))
    look = Unmeasured(status, run, lambda: begun.append(1)).look
    silent = unmeasured.SILENT_SECONDS
    look(Status(clock=1000.0))
    look(Status(clock=1000.0, waits_since=1000.0 - silent + 1))
    look(Status(clock=1000.0, waits_since=500.0, measured_at=1000.0 - silent + 1))
    assert begun == []
    for number in range(1, 4):
        look(Status(clock=1000.0 + silent * number, waits_since=500.0))
        look(Status(clock=1000.0 + silent * number + 1, waits_since=500.0))
        assert len(begun) == number
    assert not said and not run_figures.settled(run, 10)
    look(Status(clock=1000.0 + silent * 4, waits_since=500.0))
    assert said == ["step 10 cannot be evaluated; the run goes on without its figures"]
    assert run_figures.settled(run, 10)


def test_it_wants_evaluations() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.stop: checkpoints are not measured; set evaluation\.during"):
        load("digits", ["evaluation.stop={}"])
    stop = load("digits", ["evaluation.during_training=true", "evaluation.stop.patience=2"]).evaluation.stop
    assert stop == EarlyStop(patience=2)
    with pytest.raises(ConfigError, match=r"evaluation\.stop\.figure"):
        load("digits", ["evaluation.stop.figure=loss"])


@pytest.mark.long
def test_a_run_ends_at_the_same_step_on_any_replicas_and_after_resumes(
    tmp_path: Path, ray_cluster: tuple[str, str]
) -> None:
    words = [*MEASURED, "evaluation.stop={figure: kid, patience: 1, least: 0.5}", "steps=400"]
    code, out, err = train("digits", *options(tmp_path, *words, "name=one"), address=ray_cluster[0])
    assert code == 0, err
    (why,) = [line for line in out.splitlines() if line.startswith("ending early")]
    run = Location.of(str(tmp_path / "one"))
    kid = {step: found.kid for step, found in run_figures.noted(run).items()}
    ended = ends_at(EarlyStop(patience=1, least=0.5), kid, 10, until=400)
    assert ended is not None and ended.step < 400
    assert why.startswith(f"ending early at step {ended.step:,}: kid was best at step {ended.best_step:,}")
    assert f"done: {ended.step:,} steps in" in out
    assert run_checkpoints.steps(run)[-1] == ended.step
    assert list(kid) == list(range(10, ended.step + 1, 10)), "the last one was measured too"

    two = ["replicas=2", "name=two"]
    before = ended.step - 10
    code, _, err = train("digits", *options(tmp_path, *words, *two, f"steps={before}"), address=ray_cluster[0])
    assert code == 0, err
    for _ in range(2):  # The second time there is nothing to do.
        code, out, err = train("resume=two", f"storage={tmp_path}", "steps=400", address=ray_cluster[0])
        assert code == 0, err
        assert why.partition("(")[0] in out and f"done: {ended.step:,} steps in" in out
        assert run_checkpoints.steps(Location.of(str(tmp_path / "two")))[-1] == ended.step
    ours, theirs = final(tmp_path, "one", ended.step), final(tmp_path, "two", ended.step)
    assert all(float((ours[name] - theirs[name]).abs().max()) < 1e-6 for name in ours)
    code, out, err = train("resume=two", f"storage={tmp_path}", f"steps={ended.step + 10}", "evaluation.stop=null",
                           address=ray_cluster[0])  # fmt: skip
    assert code == 0, err
    assert f"done: {ended.step + 10:,} steps in" in out
