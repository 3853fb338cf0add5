"""Whether a run ends early at a step: decided from the figures in its folder alone, so that it is found again."""

from __future__ import annotations

from pipelines.quality.early_stop import EarlyStop, Ended, ends_at
from pipelines.storage.location import Location
from service.artifacts import run_figures


class EarlyStops:
    """Looks at a run's figures when its regular checkpoints are due.

    Args:
        stop: what ends the run.
        every: steps between regular checkpoints.
        run: the run's folder.
    """

    def __init__(self, stop: EarlyStop, every: int, run: Location) -> None:
        self._stop, self._every, self._run = stop, every, run

    def due(self, step: int) -> bool:
        """Whether it is to be decided now that `step` steps are done."""
        return step % self._every == 0 and step > self._every

    def known(self, step: int) -> bool:
        """Whether all that it is decided from is there; an evaluation may still be at work."""
        return run_figures.settled(self._run, step - self._every)

    def ended(self, step: int) -> Ended | None:
        """Where the run ends, if that is at `step` or before."""
        figure = self._stop.figure
        figures = {at: found.figures[figure] for at, found in run_figures.noted(self._run).items()}
        return ends_at(self._stop, figures, self._every, step)

    def text(self, ended: Ended) -> str:
        """Why the run ends, in a line."""
        best = "is no number" if ended.best_step is None else f"was best at step {ended.best_step:,} ({ended.best:.4g})"
        evaluations = "evaluation" if self._stop.patience == 1 else f"{self._stop.patience} evaluations"
        return (
            f"ending early at step {ended.step:,}: {self._stop.figure} {best}, and the next {evaluations} found "
            "nothing better (evaluation.stop)"
        )
