"""What all replicas do at the end of the same step: checkpoint, or checkpoint and leave.

Rank 0 knows what is asked for: by the driver, by a node's end that is announced, by the clock. About once a second
it tells the others, who meet it there; steps in between cost nothing. Where a figure may end the run, they meet at
every regular checkpoint too, and wait for the evaluation of the one before.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import ray
import ray.train
from ray.train import collective

from service.runs.early_stop import EarlyStops

#: How often replicas meet, in seconds: often enough for a spot node, which is gone 30 s after its notice.
_MEET_SECONDS = 1.0
#: How many times as many steps may lie before the next meeting as before the last one.
_GROWTH = 2

#: How often rank 0 looks whether an evaluation has ended, in seconds.
_LOOK_SECONDS = 0.5
Why = Literal["asked", "preempted", "room", "figure"]


@dataclass(frozen=True)
class Left:
    """A replica that has left the run before its end, after a checkpoint.

    Attributes:
        why: somebody asked for it, or a node's end was announced and the run is to go on elsewhere, or there is room
            for more replicas, or a figure has not become better and the run is at its end.
    """

    step: int
    why: Why


@dataclass(frozen=True)
class Wish:
    """What is to be done at the end of a step. Who leaves makes a checkpoint first."""

    checkpoint: bool = False
    leave: Why | None = None


def steps_to_meeting(steps: int, seconds: float) -> int:
    """How many steps lie before the next meeting, where `steps` have taken `seconds`."""
    return max(1, min(_GROWTH * steps, int(_MEET_SECONDS * steps / max(seconds, 1e-9))))


class Agreement:
    """Rank 0's wishes, heard by every replica at the same step.

    Args:
        status: the run's.
        checkpoint_seconds: after how long without a checkpoint the next is due; None for never.
        start: the steps that were done when this replica began.
        early: what may end the run early.
    """

    def __init__(
        self, status: Any, checkpoint_seconds: float | None, start: int, early: EarlyStops | None = None
    ) -> None:
        self._status, self._checkpoint_seconds, self._early = status, checkpoint_seconds, early
        context = ray.train.get_context()
        self._alone, self._chief = context.get_world_size() == 1, context.get_world_rank() == 0
        self._last, self._next = start, start + 1
        self._met = self._checkpointed = time.monotonic()

    def wish(self, step: int) -> Wish:
        """What is to be done now that `step` steps are done. All replicas ask, after every step."""
        if step < self._next and not self._judged(step):
            return Wish()
        while True:
            notice = ray.train.get_preemption_info()  # The same on all replicas, or Ray makes it so.
            said = self._decide(step, notice) if self._chief else None
            if not self._alone:
                said = collective.broadcast_from_rank_zero(said)
            assert said is not None
            wish, steps = said
            if wish is not None:
                self._last, self._next = step, step + steps
                return wish

    def ended_before(self, start: int) -> Left | None:
        """Whether the run has ended early already, where it goes on after `start` steps. All replicas ask."""
        if start and self._early is not None and self.wish(start).leave == "figure":
            return Left(start, "figure")
        return None

    def checkpointed(self) -> None:
        """A checkpoint was made: the next is due by the clock from now on."""
        self._checkpointed = time.monotonic()

    def _judged(self, step: int) -> bool:
        return self._early is not None and self._early.due(step)

    def _decide(self, step: int, notice: ray.train.PreemptionInfo | None) -> tuple[Wish | None, int]:
        """The wish, or None if it is not known yet; and the steps to the next meeting."""
        now = time.monotonic()
        steps = steps_to_meeting(step - self._last, now - self._met)
        self._met = now
        if why := ray.get(self._status.leave.remote()):
            return Wish(leave=why), steps
        if notice is not None and ray.get(self._status.notice.remote(notice.preempted_node_ids)):
            return Wish(leave="preempted"), steps
        if self._early is not None and self._judged(step):
            if not self._early.known(step):
                self._status.wait.remote(True)
                time.sleep(_LOOK_SECONDS)
                return None, steps
            self._status.wait.remote(False)
            if ended := self._early.ended(step):
                self._status.say.remote(self._early.text(ended))
                return Wish(leave="figure"), steps
        due = self._checkpoint_seconds is not None and now - self._checkpointed >= self._checkpoint_seconds
        return Wish(checkpoint=due), steps
