"""XLA's tests run in an environment of their own (make test-xla), on PJRT's CPU client with four chips emulated."""

import importlib.util
import os

import pytest

if importlib.util.find_spec("torch_xla") is None:
    pytest.skip(
        "XLA NOT TESTED: torch_xla is not installed here; make test-xla has an environment of its own",
        allow_module_level=True,
    )

CHIPS = 4
os.environ |= {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": str(CHIPS)}
# Programs are compiled three times as fast, and run slower; what they compute stays.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

from service.accelerators.xla import Xla  # noqa: E402

# Before the first backward pass of any test: torch's engine makes a queue for each device that it knows by then.
Xla()
