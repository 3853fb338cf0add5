"""A run's numbers as Prometheus gauges: Ray's agents export them from every node, with ``ray_`` before their names."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

_LABELS = ("run", "recipe")
_WEIGHT = "weight/"
_PLAIN = {
    "images_per_second": "images a second, over all replicas",
    "seconds_per_step": "seconds of a step",
    "data_wait_seconds_per_step": "seconds of a step that it waited for data",
}


class Gauges:
    """The gauges of one run: ``ray_selfgan_images_per_second`` and so on. infra/ has a dashboard and alerts of them.

    Args:
        attempts: how often the run has been started, this time included.
    """

    def __init__(self, run: str, recipe: str, attempts: int) -> None:
        self._labels = {"run": run, "recipe": recipe}
        self._plain = {name: _gauge(name, text) for name, text in _PLAIN.items()}
        self._step = _gauge("step", "steps that are done")
        self._weight = _gauge("loss_weight", "weight of a loss term in the joint step", "term")
        _gauge("attempts", "how often the run was started; one more than its restarts").set(attempts, self._labels)

    def set(self, step: int, values: Mapping[str, float]) -> None:
        """Show what was measured at `step`."""
        self._step.set(step, self._labels)
        for name, value in values.items():
            if name in self._plain:
                self._plain[name].set(value, self._labels)
            elif name.startswith(_WEIGHT):
                self._weight.set(value, {**self._labels, "term": name.removeprefix(_WEIGHT)})


def _gauge(name: str, description: str, *labels: str) -> Gauge:
    return Gauge(f"selfgan_{name}", description=description, tag_keys=(*_LABELS, *labels))
