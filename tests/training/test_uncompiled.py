"""Optimizers without torch's compiler: the same steps, in processes that never import it."""

import subprocess
import sys
from copy import deepcopy
from typing import Any

import pytest
import torch

from service.configuration.recipe import load
from service.training.uncompiled import uncompiled
from tests.conftest import ROOT

KINDS: dict[type[torch.optim.Optimizer], dict[str, Any]] = {
    torch.optim.Adam: {"lr": 0.1, "betas": (0.5, 0.9)},
    torch.optim.RMSprop: {"lr": 0.1},
}
TRAINING = """
import sys, torch
from service.configuration.recipe import load
for name in ("sngan-mnist", "r3gan-mnist", "self-r3gan-bedroom"):
    load(name)
run = load("digits")
weights = torch.nn.Parameter(torch.ones(3))
optimizer = run.optimizer.build([{"params": [weights], "lr": 0.1}], fused=True)
weights.square().sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
assert not {"torch._dynamo", "torch.fx.experimental.symbolic_shapes"} & sys.modules.keys()
"""


#: What Ray Train's controller reads of a run on one replica.
CONTROLLING = """
import sys
import service.runs.driver.failures, service.runs.driver.scaling, service.runs.job
assert "torch" not in sys.modules
"""


def test_the_controller_starts_without_torch() -> None:
    subprocess.run([sys.executable, "-c", CONTROLLING], cwd=ROOT, check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_and_states_are_those_of_torch(kind: type[torch.optim.Optimizer]) -> None:
    found, expected = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    ours, torchs = uncompiled(kind)([found], **KINDS[kind]), kind([expected], **KINDS[kind])
    for step in range(5):
        for weights, optimizer in ((found, ours), (expected, torchs)):
            optimizer.zero_grad()
            (weights.sin() * (step + 1)).sum().backward()
            optimizer.step()
        assert torch.equal(found, expected)
        if step == 2:
            ours.load_state_dict(deepcopy(torchs.state_dict()))
            torchs.load_state_dict(deepcopy(ours.state_dict()))
    assert not found.grad_fn and found.requires_grad


def test_neither_the_check_of_a_recipe_nor_a_step_imports_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", TRAINING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_networks_that_do_not_fit_here_are_checked_without_memory() -> None:
    """They may fit where they train: a critic of 720 GB, and images of 2,048 pixels."""
    load("dcgan-mnist", ["network.critic_channels=100000"])
    load("pix2pix-facades", ["data.transform.size=2048"])
