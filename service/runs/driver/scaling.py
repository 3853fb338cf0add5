"""How many replicas Ray Train starts on a cluster that ends with its run."""

from __future__ import annotations

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy


class Unasked(FixedScalingPolicy):  # type: ignore[misc]  # Ray has no types.
    """As many as were asked for, without Ray Data's autoscaling coordinator.

    That actor shares out the nodes of an autoscaler among jobs. Where there are neither, replicas would wait for one
    more process that imports Ray Data, to be told nothing.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass
