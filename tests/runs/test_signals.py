"""A run that is told to end while Ray starts hears of it, and is left the time to put things in order."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from pipelines.exit_codes import ExitCode
from service.configuration.recipe import load
from service.runs.driver import cluster
from service.runs.driver.signals import Interrupted, heard


def tell() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def then_told(init: Callable[..., Any]) -> Callable[..., Any]:
    """As `ray.init`, but the signal comes just before it returns, when Ray's own handlers are in place."""

    def init_and_told(*given: Any, **named: Any) -> None:
        init(*given, **named)
        assert signal.getsignal(signal.SIGTERM).__module__.startswith("ray.")
        tell()

    return init_and_told


@pytest.mark.parametrize("when", ["within", "after"])
def test_a_signal_is_heard_as_soon_as_ray_starts(
    tmp_path: Path, ray_cluster: tuple[str, str], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    run = load("digits", [f"storage={tmp_path}", f"cluster.address={ray_cluster[0]}"])
    if when == "within":
        monkeypatch.setattr(ray, "init", then_told(ray.init))
    try:
        with heard(), pytest.raises(Interrupted) as told:
            cluster.connect(run)
            tell()
        assert told.value.code == ExitCode.TERMINATED
        assert signal.alarm(0) == 0, "nothing ends the process before it has put things in order"
    finally:
        ray.shutdown()
