"""When a run has trained enough: a figure of its evaluations has not become better for some time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from pipelines.components import Options
from pipelines.quality.figures import BETTER


class EarlyStop(Options):
    """What ends a run before its last step."""

    figure: Literal["fid", "kid", "precision", "recall", "density", "coverage"] = Field(
        "kid", description="what is looked at"
    )
    patience: int = Field(3, ge=1, description="evaluations in a row that may find nothing better")
    least: float = Field(0.0, ge=0, description="how much better counts, as a share of the best so far")


@dataclass(frozen=True)
class Ended:
    """Where a run ends early.

    Attributes:
        step: its last one.
        best_step: the checkpoint with the best figure until then; None if no figure was a number.
    """

    step: int
    best_step: int | None
    best: float


def ends_at(stop: EarlyStop, figures: Mapping[int, float], every: int, until: int) -> Ended | None:
    """The first checkpoint at which a run ends early, if that is `until` or before.

    A checkpoint is measured while the next steps are done. So what counts at one are the figures of those before it,
    and the answer does not depend on how long measuring takes.

    Args:
        figures: by the step of the checkpoint that they are of.
        every: steps between checkpoints; others, made by the clock or by a signal, do not count.
    """
    best_step, best, without = None, math.inf, 0
    for step in sorted(step for step in figures if step % every == 0):
        value = figures[step] if BETTER.get(stop.figure) == "lower" else -figures[step]
        if math.isfinite(value) and (best_step is None or value < best - stop.least * abs(best)):
            best_step, best, without = step, value, 0
        else:
            without += 1
        if without >= stop.patience:
            ended = Ended(step + every, best_step, figures[best_step] if best_step is not None else math.nan)
            return ended if ended.step <= until else None
    return None
