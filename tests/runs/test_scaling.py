"""How many replicas are started on a cluster that ends with its run, and that nobody is asked for room there."""

from ray.train import ScalingConfig

from service.runs.driver.scaling import Unasked


def test_as_many_replicas_as_were_asked_for_and_no_coordinator() -> None:
    """Outside a cluster: whoever asked the coordinator would fail, as there is none."""
    policy = Unasked(ScalingConfig(num_workers=3, resources_per_worker={"CPU": 2}))
    policy.after_controller_start(None)
    decision = policy.make_decision_for_non_running_worker_group()
    assert (decision.num_workers, decision.resources_per_worker) == (3, {"CPU": 2})
    policy.before_controller_abort()
