"""Numbers that go from one value to another while a run trains, each a function of the step alone.

Where a recipe may have a schedule, it has a number, or ``{base: 2, final: 0.2, images: 20000000}`` in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter, model_validator
from torch import Tensor

from pipelines.components import Options
from service.replicas.rows import Rows


class Cosine(Options):
    """``final + (base - final) / 2 (1 + cos(pi n / N))`` after n of N images, or steps, and `final` after all of them.

    R3GAN's (Huang et al. 2024, arXiv:2501.05441; brownvc/R3GAN). A step has as many images as its batch, however many
    batches its critics read.
    """

    base: float
    final: float
    images: float | None = Field(None, gt=0)
    steps: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _has_one_length(self) -> Cosine:
        if (self.images is None) == (self.steps is None):
            raise ValueError("a schedule is base, final, and either images or steps")
        return self

    def at(self, step: int, batch_size: int) -> float:
        """Its value at a step, for the host."""
        found: float = self._of(math.cos(min(step / self._length(batch_size), 1.0) * math.pi))
        return found

    def on_device(self, step: Tensor, batch_size: int) -> Tensor:
        """The same where the step lives, a 0-dimensional float64: no step is given a new value by the host."""
        found: Tensor = self._of((step.double() / self._length(batch_size)).clamp_max(1.0).mul(math.pi).cos())
        return found

    def _length(self, batch_size: int) -> float:
        """In steps."""
        return self.images / batch_size if self.images is not None else float(self.steps or 0)

    def _of(self, cosine: Any) -> Any:
        return self.final + (self.base - self.final) / 2 * (1 + cosine)


Scheduled = float | Cosine


def within(ends: Mapping[str, float] | None = None, optional: bool = False, **bounds: float) -> PlainValidator:
    """What reads a number within bounds, or a schedule between two of them.

    Args:
        ends: bounds of a schedule's two values, if they are others.
        optional: whether there may be none.
    """
    finite = ConfigDict(allow_inf_nan=False)
    number, end = (
        TypeAdapter[float](Annotated[float, Field(**limits)], config=finite)
        for limits in (bounds, bounds if ends is None else ends)
    )

    def read(value: Any) -> Scheduled | None:
        if value is None and optional:
            return None
        if not isinstance(value, Mapping | Cosine):
            return number.validate_python(value)
        schedule = Cosine.model_validate(value)
        for one in (schedule.base, schedule.final):
            end.validate_python(one)
        return schedule

    return PlainValidator(read)


def first(value: Scheduled) -> float:
    """The value at the beginning."""
    return value.base if isinstance(value, Cosine) else value


def now(value: Scheduled, batch: Rows) -> float | Tensor:
    """The value at the batch's step, on its device where it changes."""
    return value.on_device(batch.step, batch.whole_size) if isinstance(value, Cosine) else value
