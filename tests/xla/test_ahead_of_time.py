"""The joint step as libtpu compiles it for slices of TPU v5e: how it is shared out, and what chips tell one another."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec

import pytest

from service.accelerators.xla_pod import FULL_PRECISION
from tests.conftest import ROOT

CHIPS = {"v5e:2x2": 4, "v5e:4x4": 16}
#: libtpu would look for a TPU's metadata, for a lock that one process may hold, and for a place for its log.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "LIBTPU_INIT_ARGS": FULL_PRECISION,
}


@pytest.mark.parametrize("topology", list(CHIPS))
def test_loss_weights_cost_one_all_reduce_on_a_tpu(topology: str) -> None:
    if not (find_spec("libtpu") and find_spec("jax")):
        pytest.skip("NOT COMPILED FOR A TPU: libtpu or jax is not installed")
    command = [sys.executable, "-m", "tests.xla.ahead_of_time", topology, "self-dcgan-mnist"]
    environment = {**os.environ, **LIBTPU, "CPU_NUM_DEVICES": str(CHIPS[topology])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    sums = Counter(" and ".join(purposes) for kind, purposes in found["collectives"] if kind == "all-reduce")
    print(f"{topology}: {found['partitions']} partitions, all-reduces: {dict(sums)}, "
          f"all collectives: {dict(Counter(kind for kind, _ in found['collectives']))}")  # fmt: skip
    assert found["partitions"] == CHIPS[topology]
    assert sums["losses and weights"] == 1
    assert sums["gradients"] == 1
    # Seven batch norms, of which the critic's see three passes at once.
    assert 0 < sums["batch norm's statistics"] <= 7 and 0 < sums["batch norm's gradient"] <= 7
    assert found["bfloat16"] == 0  # Not even for a moment, in a convolution.
