"""XLA's tests run in an environment of their own (make test-xla), on PJRT's CPU client with four chips emulated."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

CHIPS = 4
_INSTALLED = importlib.util.find_spec("torch_xla") is not None


class _NotTested(pytest.Module):
    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        pytest.skip("XLA NOT TESTED: torch_xla is not installed here; make test-xla has an environment of its own")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-recipe", action="store_true", help="run every recipe on XLA, half an hour, and not a few")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return None if _INSTALLED else _NotTested.from_parent(parent, path=module_path)


if _INSTALLED:
    os.environ |= {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": str(CHIPS)}
    # Programs are compiled three times as fast, and run slower; what they compute stays.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

    from service.replicas.accelerators.xla import Xla

    # Before the first backward pass of any test: torch's engine makes a queue for each device that it knows by then.
    Xla()
