"""The joint step as libtpu compiles it for slices of TPU v5e: how it is shared out, and what chips tell one another."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from typing import Any

import pytest

from service.replicas.accelerators.xla_pod import FULL_PRECISION
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


def compiled(topology: str, rows: str, *words: str) -> dict[str, Any]:
    """What `ahead_of_time` finds of a recipe's step, and what all-reduces are for."""
    if not (find_spec("libtpu") and find_spec("jax")):
        pytest.skip("NOT COMPILED FOR A TPU: libtpu or jax is not installed")
    command = [sys.executable, "-m", "tests.xla.ahead_of_time", topology, rows, "self-dcgan-mnist", *words]
    environment = {**os.environ, **LIBTPU, "CPU_NUM_DEVICES": str(CHIPS[topology])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["sums"] = Counter(" and ".join(purposes) for kind, purposes in found["collectives"] if kind == "all-reduce")
    kinds = Counter(kind for kind, _ in found["collectives"])
    print(
        f"{topology}, rows {rows} {' '.join(words)}: {found['partitions']} partitions, "
        f"all-reduces: {dict(found['sums'])}, all collectives: {dict(kinds)}"
    )
    assert found["partitions"] == CHIPS[topology]
    return found


@pytest.mark.parametrize(("topology", "rows"), [("v5e:2x2", "64"), ("v5e:4x4", "16,16,16,16")])
def test_loss_weights_cost_one_all_reduce_on_a_tpu(topology: str, rows: str) -> None:
    found = compiled(topology, rows)
    sums = found["sums"]
    assert sums["losses and weights"] == 1
    assert sums["gradients"] == 1
    # Seven batch norms, of which the critic's see three passes at once.
    assert 0 < sums["batch norm's statistics"] <= 7 and 0 < sums["batch norm's gradient"] <= 7
    assert sums.keys() <= {"losses and weights", "gradients", "batch norm's statistics", "batch norm's gradient",
                           "row numbers of draws"}  # fmt: skip
    assert found["bfloat16"] == 0  # Not even for a moment, in a convolution.


def test_hosts_that_read_more_and_fewer_rows_put_them_in_order_on_the_chips() -> None:
    sums = compiled("v5e:4x4", "20,12,18,14")["sums"]
    assert sums["losses and weights"] == sums["gradients"] == 1
    assert sums["order of rows"] > 0


def test_chips_add_up_in_float32_what_they_multiply_in_bfloat16() -> None:
    found = compiled("v5e:2x2", "64", "dtype=bfloat16")
    assert found["sums"]["losses and weights"] == found["sums"]["gradients"] == 1
    summed = [shape for kind, shape, *_ in found["parts"] if kind == "all-reduce"]
    assert {shape.partition("[")[0] for shape in summed} == {"f32", "u32"}  # u32: of draws.
    products = Counter((made, *sorted(set(factors))) for made, *factors in found["convolutions"])
    print(f"products: {dict(products)}")
    assert set(products) == {("bf16", "bf16"), ("f32", "bf16")}  # The latter are weights' gradients.
