"""What earlier versions have written is read: a run and its checkpoint, a data set, a registered model.

The archive beside this file is of version 0.1.0 as of commit 7ee6431, when `service` was one flat package:
`digits network=mlp network.generator_widths=[16] network.critic_widths=[16] steps=4 batch.size=16 name=before`.
"""

import json
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

from pipelines.data.shards import read_manifest
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service import open_checkpoint, open_generator
from service.configuration.recipe import load
from service.generator import Generator
from tests.conftest import ROOT, train

USED = """
import sys
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
assert "code/sources.zip" in sys.modules["service"].__file__, sys.modules["service"].__file__
images = model.predict({"n": [3], "seed": [7]})
print(images.shape, images.dtype)
"""


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The storage of the earlier version, moved to a folder of this test."""
    ZipFile(Path(__file__).with_name("written_before.zip")).extractall(tmp_path)
    file = tmp_path / "before" / "run.json"
    file.write_text(file.read_text().replace("/tmp/before/runs", str(tmp_path)))
    return tmp_path


def test_a_data_set_is_read(before: Path) -> None:
    (folder,) = (before / "shards").iterdir()
    manifest = read_manifest(Location.of(str(folder)))
    loader = open_loader(Location.of(str(folder)), load("digits").data.transform, 16, 0)
    assert manifest.rows == 1797 and loader.batch(0).images.shape == (16, 1, 16, 16)
    loader.close()


@pytest.mark.long
def test_a_run_goes_on(before: Path, ray_cluster: tuple[str, str]) -> None:
    words = ["resume=before", f"storage={before}", "steps=6"]
    code, _, err = train(*words, address=ray_cluster[0])
    assert code == 0, err
    entries = map(json.loads, (before / "before" / "metrics.jsonl").read_text().splitlines())
    logged = [entry["step"] for entry in entries if "metrics" in entry]
    assert min(logged) > 4, "it began anew"
    state = open_checkpoint(str(before / "before"))
    assert state.step == 6
    assert float(state.optimizers["joint"]["state"][0]["step"]) == 6, "the optimizer began anew"


def test_a_checkpoint_makes_images(before: Path) -> None:
    state = open_checkpoint(str(before / "before"), 4)
    generator = open_generator(state)
    packed = Generator.read(before / "model" / "artifacts" / "generator")
    assert torch.equal(generator.make(8, 3), packed.make(8, 3))


def test_a_registered_model_runs_its_own_sources_where_the_service_is_not_loaded(before: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", USED, str(before / "model")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["(3,", "16,", "16,", "1)", "uint8"]


def test_a_registered_model_runs_in_a_process_of_this_version(before: Path) -> None:
    code = "import service.runs.on_replica.replica\n" + USED.replace('"code/sources.zip" in', f'"{ROOT}" in')
    command = [sys.executable, "-c", code, str(before / "model")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_option_of_the_earlier_version_is_still_one(before: Path) -> None:
    said = json.loads((before / "before" / "run.json").read_text())
    assert load(None, ["resume=before", f"storage={before}"]).recipe == said["recipe"]
