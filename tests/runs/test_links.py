"""A run whose network is cut: it goes on, and its weights are those of a run in peace."""

import signal
import time
from pathlib import Path

import pytest
import torch

from benchmarks.links import can_be_made
from tests.conftest import train_command
from tests.patience import PATIENCE, wait_until
from tests.runs.linked_nodes import linked_nodes
from tests.runs.test_runs import final, options, train
from tests.runs.test_stopping import logged

CUT_SECONDS = 20.0


@pytest.mark.long
@pytest.mark.skipif(not can_be_made(), reason="LINKS NOT CUT: this user may not make network namespaces here")
def test_a_link_that_is_cut_for_a_while_and_one_for_good_cost_no_bit(tmp_path: Path) -> None:
    exact = ["exact=true", "dtype=float32", "steps=100000", "logging.every=1", "logging.samples_every=50000"]
    with linked_nodes(2) as cluster:
        words = options(tmp_path, "replicas=2", "cluster.min_replicas=1", "name=cut", *exact)
        command = train_command("digits", *words, address=cluster.address)

        def goes_on() -> None:
            before = logged(tmp_path, "cut")[-1]
            wait_until(lambda: logged(tmp_path, "cut")[-1] > before + 30, "it goes on", command)

        wait_until(lambda: logged(tmp_path, "cut"), "it trains", command)
        goes_on()
        cluster.links.cut(0)
        time.sleep(CUT_SECONDS)
        cluster.links.mend(0)
        goes_on()
        cluster.links.cut(1)
        goes_on()
        command.send_signal(signal.SIGTERM)
        out, err = command.communicate(timeout=PATIENCE)
        assert command.returncode == 143, out + err
    end = logged(tmp_path, "cut")[-1]
    assert logged(tmp_path, "cut") == list(range(1, end + 1)), "every metric once"
    alone = options(tmp_path, "name=alone", *exact, f"steps={end}", "cluster.address=local")
    code, _, err = train("digits", *alone)
    assert code == 0, err
    cut, whole = final(tmp_path, "cut", end), final(tmp_path, "alone", end)
    assert all(torch.equal(value, cut[key]) for key, value in whole.items())
