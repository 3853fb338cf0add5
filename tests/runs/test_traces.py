"""A trace of some steps, by torch's profiler."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from pipelines.components import ConfigError
from service.configuration.recipe import load
from service.tracking.traces import Trace


def traced(file: Path, name: str) -> int:
    """How often an operation is in a trace."""
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return sum(event.get("cat") == "cpu_op" and event["name"] == name for event in events)


@pytest.mark.parametrize(("start", "end", "expected"), [(0, 8, "00000004-00000006"), (100, 105, "00000104-00000105")])
def test_some_steps_are_traced(tmp_path: Path, start: int, end: int, expected: str) -> None:
    """Though the run ends before the last of them."""
    written: list[Path] = []
    trace = Trace(3, 3, tmp_path / "profile", written.append)
    for step in range(start, end):
        torch.ones(4, 4) @ torch.ones(4, 4)
        trace.step(step + 1)
    trace.close()
    trace.close()
    assert [file.name for file in written] == [f"steps-{expected}.json.gz"]
    assert traced(written[0], "aten::mm") == min(3, end - start - 3), "one a step"


def test_a_trace_has_room_in_the_run() -> None:
    assert load("digits", ["profile.steps=5", "steps=15"]).profile.after == 10
    with pytest.raises(ConfigError, match=r"profile\.steps: 5 steps after the first 10 are more than steps=14"):
        load("digits", ["profile.steps=5", "steps=14"])
    assert load("digits", ["profile.steps=5"]).recipe_hash == load("digits").recipe_hash
