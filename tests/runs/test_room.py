"""Runs on fewer replicas than they ask for: they begin again on more when there is room, and do no step twice."""

from service.runs.driver.room import SETTLE_SECONDS, Growth, further
from service.tracking.progress import StatusActor


def test_a_replica_finds_room_on_one_node() -> None:
    each = {"CPU": 1.0, "GPU": 1.0}
    assert further([{"CPU": 4.0, "GPU": 2.0}, {"CPU": 4.0}, {"CPU": 0.5, "GPU": 1.0}, {}], each) == 2
    assert further([{"CPU": 0.3}, {"CPU": 0.1}], {"CPU": 0.1}) == 4
    assert further([], each) == 0


def test_it_is_time_when_the_room_has_settled() -> None:
    growth, later = Growth(4), SETTLE_SECONDS
    assert not growth.due(0, 1, 2, 0)
    assert not growth.due(10, 1, 2, 1)
    assert not growth.due(9 + later, 1, 2, 1)
    assert not growth.due(10 + later, 1, 2, 2), "one more has come"
    assert not growth.due(30 + later, 2, 2, 2), "another attempt has begun"
    assert growth.due(30 + 2 * later, 2, 2, 2)
    assert not growth.due(100 + 2 * later, 3, 4, 9), "as many as the run asks for"


def test_what_ray_did_not_give_is_not_asked_for_again() -> None:
    growth, later = Growth(4), SETTLE_SECONDS
    assert not growth.due(0, 1, 2, 1)
    assert growth.due(later, 1, 2, 1)
    assert not growth.due(100, 2, 2, 1) and not growth.due(100 + later, 2, 2, 1)
    assert not growth.due(200, 2, 2, 2)
    assert growth.due(200 + later, 2, 2, 2), "there is more room than was asked for"
    assert not growth.due(300, 3, 2, 0), "it has gone"
    assert not growth.due(400, 3, 2, 1)
    assert growth.due(400 + later, 3, 2, 1)


def test_only_the_attempt_that_was_asked_leaves_for_room() -> None:
    status = StatusActor()
    status.start(0, 2)
    assert status.leave() is None
    status.grow(1)
    assert status.leave() == "room"
    status.ask()
    assert status.leave() == "asked"
    status = StatusActor()
    status.start(0, 2)
    status.start(0, 2)
    status.grow(1)
    assert status.leave() is None
    status.grow(2)
    status.start(0, 4)
    assert status.leave() is None
