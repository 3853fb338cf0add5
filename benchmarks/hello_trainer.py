"""The least that a Ray Train run is: one worker that says when its function began. Prints the seconds until then."""

from __future__ import annotations

import sys
import time

_BEGAN = time.time()


def main(framework: str) -> None:
    import ray
    import ray.train

    if framework == "torch":
        from ray.train.torch import TorchTrainer as Trainer
    else:
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer as Trainer
    imported = time.time()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
    started = time.time()
    scaling = ray.train.ScalingConfig(num_workers=1)
    begun = Trainer(_begin, scaling_config=scaling).fit().return_value
    print(
        f"first line after {begun - _BEGAN:.1f} s: imports {imported - _BEGAN:.1f}, Ray {started - imported:.1f}, "
        f"replicas {begun - started:.1f}"
    )


def _begin() -> float:
    """What a worker does first; a function of a module is found there by import, so that one's imports count."""
    return time.time()


if __name__ == "__main__":
    main(*sys.argv[1:])
