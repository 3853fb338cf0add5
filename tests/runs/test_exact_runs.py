"""Exact replicas on Ray: a run on three has the weights of one on one, and says where its bits are from."""

from pathlib import Path

import pytest
import torch

from service.artifacts import checkpoints
from service.replicas.exact.arithmetic import fingerprint
from tests.runs.test_runs import STEPS, final, options, train


@pytest.mark.long
def test_three_replicas_have_the_bits_of_one(tmp_path: Path, ray_cluster: tuple[str, str]) -> None:
    for replicas in (1, 3):
        words = options(tmp_path, "exact=true", f"replicas={replicas}", f"name=on-{replicas}")
        code, _, err = train("digits", *words, address=ray_cluster[0])
        assert code == 0, err
    one, three = final(tmp_path, "on-1"), final(tmp_path, "on-3")
    assert [key for key, value in one.items() if not torch.equal(value, three[key])] == []
    state = checkpoints.load(tmp_path / "on-3" / checkpoints.name_of(STEPS))
    assert state.arithmetic == fingerprint(torch.device("cpu"))


def test_exact_is_refused_on_xla(tmp_path: Path, ray_cluster: tuple[str, str]) -> None:
    words = options(tmp_path, "exact=true", "cluster.accelerator=xla", "cluster.emulated_chips=2")
    code, _, err = train("digits", *words, address=ray_cluster[0])
    assert code == 2
    assert err == "error: exact: XLA's compiler chooses the order of sums over chips; set exact=false for it\n"
