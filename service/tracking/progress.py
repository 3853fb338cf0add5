"""Progress: what a person sees while a run trains. Rank 0 writes on a status; the driver reads it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.live import Live
from rich.text import Text

#: The terms that a person looks at first, and how they are called where room is short.
_FIRST, _SHORT = ("generator", "real", "fake"), {"generator": "G"}


@dataclass(frozen=True)
class Pulse:
    """The last sign of life of a replica: which process it is, and when it came, by the status's `clock`.

    Attributes:
        peak_bytes: the most memory that it has held.
    """

    rank: int
    host: str
    node: str
    pid: int
    at: float = 0.0
    peak_bytes: int = 0


@dataclass
class Status:
    """What is on the status. Times are those of the driver's machine, in seconds since the epoch.

    Attributes:
        replicas: how many this attempt is on.
        ready_at: when this attempt began.
        moved_at: when the last step of this attempt was done; None before its first, and when its steps are over.
        clock: when this was read, by a clock that nobody sets, as the epoch's may jump.
        since, waits_since: when this attempt began, and since when it waits for an evaluation if so, by that clock.
        measured_at: when an evaluation was last at work, likewise.
    """

    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    attempts: int = 0
    replicas: int = 0
    began: int = 0
    ready_at: float = 0.0
    moved_at: float | None = None
    clock: float = 0.0
    since: float = 0.0
    waits_since: float | None = None
    measured_at: float = 0.0
    pulses: dict[int, Pulse] = field(default_factory=dict)
    first_step_at: float | None = None
    failures: int = 0
    replaced_rows: int = 0
    hopeless: str | None = None
    asked: bool = False
    growing: bool = False
    announced: bool = False
    noticed: set[str] = field(default_factory=set)


class StatusActor:
    """An actor that holds the latest state of a run."""

    def __init__(self) -> None:
        self._posted = Status()
        self._nodes: dict[str, dict[str, float]] = {}

    def start(self, step: int, replicas: int = 1) -> int:
        """An attempt on so many replicas begins at `step`; returns the how-manieth it is."""
        self._posted.attempts += 1
        self._posted.replicas, self._posted.growing, self._posted.announced = replicas, False, False
        self._posted.ready_at, self._posted.moved_at = time.time(), None
        self._posted.since, self._posted.waits_since = time.monotonic(), None
        self._posted.step = self._posted.began = step
        return self._posted.attempts

    def leaving(self) -> int:
        """The steps of an attempt are over, until the next one begins; returns how many there have been."""
        self._posted.moved_at = None
        return self._posted.attempts

    def post(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        now = time.time()
        self._posted.first_step_at = self._posted.first_step_at or now
        if step > self._posted.step:
            self._posted.step, self._posted.moved_at = step, now
        if metrics is not None:
            self._posted.metrics = dict(metrics)

    def beat(self, pulse: Pulse) -> None:
        """A replica is alive."""
        self._posted.pulses[pulse.rank] = replace(pulse, at=time.monotonic())

    def peaks(self) -> dict[int, int]:
        """The most memory in bytes that each replica of the last attempt has held, by rank."""
        pulses = sorted(self._posted.pulses.items())
        return {rank: pulse.peak_bytes for rank, pulse in pulses if rank < self._posted.replicas}

    def node(self, host: str, values: dict[str, float]) -> None:
        """What a node does."""
        self._nodes[host] = values

    def nodes(self) -> tuple[int, dict[str, dict[str, float]]]:
        """The step, and what nodes have told since this was asked last."""
        told, self._nodes = self._nodes, {}
        return self._posted.step, told

    def say(self, text: str) -> None:
        """Something that a person should know."""
        self._posted.said.append(text)

    def warn(self, text: str) -> None:
        """Something that is not as it should be."""
        self._posted.warnings.append(text)

    def replace(self, what: str, rows: int) -> None:
        """Some rows of the data set cannot be read, and others are read instead. Every reader of them says so."""
        warning = f"{what}; {rows} rows are replaced by others"
        if warning not in self._posted.warnings:
            self._posted.replaced_rows += rows
            self.warn(warning)

    def fail(self) -> None:
        """A replica has failed, which counts among the failures that the run is allowed."""
        self._posted.failures += 1

    def failures(self) -> int:
        """How often that was."""
        return self._posted.failures

    def give_up(self, reason: str) -> None:
        """No other attempt at the run would do better."""
        self._posted.hopeless = self._posted.hopeless or reason

    def ask(self) -> None:
        """The run is to checkpoint at the end of its step, and to leave."""
        self._posted.asked = True

    def grow(self, attempt: int) -> None:
        """There is room for more replicas than this attempt is on, which is to leave for them after a checkpoint."""
        self._posted.growing = attempt == self._posted.attempts

    def leave(self) -> Literal["asked", "room"] | None:
        """Why the run is to leave now, if it is."""
        if self._posted.asked:
            return "asked"
        return "room" if self._posted.growing else None

    def notice(self, nodes: Sequence[str]) -> bool:
        """The end of nodes is announced; returns whether one of them is news."""
        news = set(nodes) - self._posted.noticed
        self._posted.noticed |= news
        self._posted.announced |= bool(news)
        return bool(news)

    def wait(self, waits: bool) -> None:
        """Replicas wait for an evaluation, or do so no longer."""
        self._posted.waits_since = (self._posted.waits_since or time.monotonic()) if waits else None

    def going(self) -> bool:
        """Whether replicas are to leave, or have left, before the run's end. Evaluations ask while they are at work."""
        self._posted.measured_at = time.monotonic()
        return self._posted.asked or self._posted.growing or self._posted.announced

    def read(self) -> Status:
        self._posted.clock = time.monotonic()
        return self._posted


def new_status() -> Any:
    """A status on the cluster: its actor handle. It is on this node, as no other's end is to be the run's."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(StatusActor).remote()


class Display:
    """Shows a status: a line that changes on a terminal, a line now and then elsewhere.

    Args:
        status: from `new_status`.
        steps: of the run.
        marks: (name, time) of what came before, for the account of the first step.
        resumed: whether the run was there before, so that people want to know where it goes on.
    """

    def __init__(
        self, status: Any, steps: int, console: Console, marks: Sequence[tuple[str, float]], resumed: bool = False
    ) -> None:
        self._status, self._steps, self._console, self._marks = status, steps, console, marks
        self._attempts_told = 0 if resumed else 1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="progress")
        self._warned = self._told = 0
        self._accounted = False

    def __enter__(self) -> Display:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        if not self._console.is_terminal:
            self._watch(lambda text: self._console.print(text, highlight=False, soft_wrap=True), 5.0)
            return
        with Live(console=self._console, refresh_per_second=4, transient=True) as live:
            self._watch(lambda text: live.update(Text(text, overflow="ellipsis", no_wrap=True)), 0.25)

    def _watch(self, show: Callable[[str], object], seconds: float) -> None:
        shown, next_show = 0, 0.0
        last = False
        while not last:
            last = self._stop.wait(0.1)
            try:
                posted = ray.get(self._status.read.remote(), timeout=5)
            except ray.exceptions.RayError:
                continue
            for warning in posted.warnings[self._warned :]:
                self._console.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True)
            self._warned = len(posted.warnings)
            for text in posted.said[self._told :]:
                self._console.print(text, highlight=False, soft_wrap=True)
            self._told = len(posted.said)
            if posted.attempts > self._attempts_told:
                self._attempts_told = posted.attempts
                self._console.print(_beginning(posted.began), highlight=False, soft_wrap=True)
            self._account(posted)
            if posted.step != shown and (last or time.monotonic() >= next_show):
                shown, next_show = posted.step, time.monotonic() + seconds
                show(line(posted, self._steps, self._console.width))

    def _account(self, posted: Status) -> None:
        """Say once how long the first step took to come, and what for."""
        if self._accounted or posted.first_step_at is None:
            return
        self._accounted = True
        marks = [*self._marks, ("replicas", posted.ready_at), ("step", posted.first_step_at)]
        parts = [f"{name} {at - before:.1f}" for (_, before), (name, at) in pairwise(marks)]
        total = posted.first_step_at - marks[0][1]
        self._console.print(f"first step after {total:.1f} s: {', '.join(parts)}", highlight=False, soft_wrap=True)


def _beginning(step: int) -> str:
    return f"going on from step {step:,}" if step else "there is no checkpoint: beginning at the first step"


def line(posted: Status, steps: int, width: int = 80) -> str:
    """One line of at most `width` columns: step, time left, speed, losses and weights, as far as they fit."""
    metrics = posted.metrics
    parts = [f"step {posted.step:,}/{steps:,}"]
    if posted.attempts > 1:
        parts.append(f"attempt {posted.attempts}")
    if "images_per_second" in metrics:
        left = (steps - posted.step) * metrics["seconds_per_step"]
        parts += [f"{duration(left)} left", f"{metrics['images_per_second']:,.0f} images/s"]
    whole = " | ".join(parts)
    for title in ("loss", "weight"):
        named = {
            name.removeprefix(f"{title}/"): value for name, value in metrics.items() if name.startswith(f"{title}/")
        }
        terms = [*(name for name in _FIRST if name in named), *(name for name in named if name not in _FIRST)]
        for number, name in enumerate(terms):
            more = f"{_SHORT.get(name, name)} {named[name]:.2f}"
            longer = f"{whole} {more}" if number else f"{whole} | {title} {more}"
            if len(longer) > width:
                return whole
            whole = longer
    return whole


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3 min 05 s or 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def console() -> Console:
    """Where a person reads."""
    return Console(file=sys.stdout)
