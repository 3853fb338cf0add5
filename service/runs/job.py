"""What the driver tells every replica. Ray Train's controller reads it too, and starts sooner without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Job:
    """A run, as it is sent.

    Attributes:
        run: as `service.configuration.tree.dump` writes it.
        tracking_run: in MLflow.
        status: the actor that holds a `service.tracking.progress.Status`.
    """

    run: dict[str, Any]
    folder: str
    tracking_uri: str
    tracking_run: str
    status: Any
    accelerator: Literal["cpu", "cuda", "xla"]
