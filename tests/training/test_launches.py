"""A step does not ask more of its device than it did."""

from pathlib import Path

import pytest

from benchmarks.launches import of_recipe

#: Operations of one step (``python -m benchmarks launches``).
MOST = {"self-dcgan-mnist": 236, "dcgan-mnist": 283, "self-gan-mnist": 160, "digits ema=null": 215, "digits": 248}


@pytest.mark.parametrize("words", MOST)
def test_a_step_takes_no_more_operations(words: str, tmp_path: Path) -> None:
    recipe, *options = words.split()
    assert of_recipe(recipe, *options, "batch.size=16", storage=str(tmp_path)).operations <= MOST[words]
