"""Runs as a user starts them, and data sets that change or break under them; the data commands themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipelines.__main__ import main as pipelines_main
from pipelines.data.images import Transform
from pipelines.data.shards import read_manifest
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.generate import main as generate_main
from service.tracking.sample_grids import grid
from service.train import main as train_main
from tests.conftest import RAY_ENVIRONMENT, ROOT, called
from tests.loading.test_loader import damaged_copy
from tests.made_data import bedrooms, encoded, write_folder, write_lmdb
from tests.patience import PATIENCE

TINY = ["network.generator_channels=4", "network.critic_channels=4", "steps=30", "batch.size=64", "logging.samples=4"]


def pipelines(*words: str, cwd: Path) -> tuple[int, str, str]:
    return called(pipelines_main, *words, cwd=cwd)


def train(*words: str, address: str | None = None) -> tuple[int, str, str]:
    return called(train_main, *words, address=address)


def process(*words: str, cwd: Path) -> tuple[int, str, str]:
    """``python -m pipelines WORDS`` in a process of its own: exit code, stdout, stderr."""
    environment = {**os.environ, **RAY_ENVIRONMENT, "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def folder_words(tmp_path: Path) -> list[str]:
    write_folder(tmp_path / "photos", {f"{name}/{at}.png": encoded() for name in ("cats", "dogs") for at in range(40)})
    source = ["data.source=folder", f"data.source.uri={tmp_path / 'photos'}", "data.transform.channels=3"]
    return ["digits", *source, f"data.shards={tmp_path / 'shards'}"]


def test_a_data_set_is_ingested_inspected_verified_and_appended_to(tmp_path: Path) -> None:
    words = folder_words(tmp_path)
    code, out, err = pipelines("ingest", *words, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "shards: version 1, 80 images in 1 shards" in out
    code, out, err = pipelines("ingest", *words, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "shards: nothing new, version 1, 80 images in 1 shards" in out
    before = sorted(tmp_path.iterdir())
    code, out, err = pipelines("inspect", str(tmp_path / "shards"), cwd=tmp_path)
    assert (code, err, sorted(tmp_path.iterdir())) == (0, "", before)
    assert all(text in out for text in ("pictures in photos", "80, decoded, 16x16x3", "cats, dogs", "bicubic"))
    code, out, err = pipelines("inspect", str(tmp_path / "shards"), "--sheet", "sheet.png", cwd=tmp_path)
    assert (code, err) == (0, "") and "contact sheet: sheet.png" in out
    sheet = Image.open(tmp_path / "sheet.png")
    loader = open_loader(Location.of(str(tmp_path / "shards")), Transform(size=16, resample="bicubic"), 1, 0)
    assert sheet.tobytes() == grid(loader.some(64).images).tobytes()
    assert len(set(sheet.getdata())) > 1000
    code, out, err = pipelines("verify", str(tmp_path / "shards"), cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "all as they were written" in out
    (tmp_path / "photos" / "cats" / "new.png").write_bytes(encoded())
    code, _, err = pipelines("ingest", *words, cwd=tmp_path)
    assert code == 2
    assert err.count("\n") == 1
    assert "holds another data set" in err
    code, out, _ = pipelines("ingest", *words, "--append", cwd=tmp_path)
    assert code == 0
    assert "version 2, 81 images in 2 shards" in out
    assert "skipped" not in out
    shard = tmp_path / "shards" / "shard-00001-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    code, _, err = pipelines("verify", str(tmp_path / "shards"), cwd=tmp_path)
    assert code == 1
    assert "shard-00001-00000.arrow: has sha256" in err


MISTAKES = [
    (
        ["ingest", "digits", "data.source=folder", "data.source.uri=s3://key:secret@bucket/x"],
        "credentials do not belong",
    ),
    (["ingest", "digits", "storage=s3://bucket/x?secret_key=secret"], "unknown option 'secret_key'"),
    (["ingest", "nothing"], "recipe: there is no 'nothing'"),
    (["ingest", "digits", "data.source=folder"], "data.source.uri: a value is missing"),
    (["ingest", "self-dcgan-bedroom", "data.source.uri=/nowhere"], "data.source.uri: '/nowhere' does not exist"),
    (["ingest", "digits", "data.shards=/proc/nowhere"], "cannot be written"),
    (["ingest", "digits", "data.shards=s3://key:secret@bucket/x"], "credentials do not belong in a URI"),
    (["inspect", "/nowhere"], "/nowhere holds no data set"),
    (["verify", "nosuch://bucket"], "nosuch://bucket is on no known file system"),
]


@pytest.mark.parametrize(
    ("words", "message"), MISTAKES, ids=lambda value: "-".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_is_told_in_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    code, _, err = pipelines(*words, cwd=tmp_path)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err
    assert "key:secret" not in err
    assert "=secret" not in err


def test_the_command_itself_ends_with_that_line_and_that_code(tmp_path: Path) -> None:
    code, out, err = process("verify", "/nowhere", cwd=tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "/nowhere holds no data set" in err


def test_help_says_what_to_type(tmp_path: Path) -> None:
    code, out, _ = process("ingest", "--help", cwd=tmp_path)
    assert code == 0
    assert "data.shards=s3://bucket/bedroom" in out


@pytest.fixture
def broken(digits: Location, tmp_path: Path) -> Location:
    return damaged_copy(digits, tmp_path / "broken", "flipped", "shard-00001-00000.arrow")


@pytest.mark.long
def test_a_damaged_shard_ends_the_run_and_names_itself(
    broken: Location, tmp_path: Path, ray_cluster: tuple[str, str]
) -> None:
    words = ["digits", *TINY, f"data.shards={broken}", f"storage={tmp_path / 'runs'}", "name=run", "replicas=2"]
    code, _, err = train(*words, "cluster.cpus_per_replica=1", "cluster.max_failures=0", address=ray_cluster[0])
    assert code == 1
    assert err.count("\n") == 1
    assert "shard-00001-00000.arrow is damaged: block" in err
    assert "restore it, or ingest it again" in err


@pytest.mark.long
def test_damaged_blocks_are_replaced_counted_and_logged_if_the_recipe_says_so(
    broken: Location, tmp_path: Path, ray_cluster: tuple[str, str]
) -> None:
    words = ["digits", *TINY, f"data.shards={broken}", f"storage={tmp_path / 'runs'}", "name=run"]
    code, out, err = train(*words, "data.damaged=replace", address=ray_cluster[0])
    assert code == 0, err
    assert "warning: shard" in out
    assert "rows are replaced by others" in out
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/runs/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("selfgan").experiment_id])
    assert int(found.data.tags["data.replaced_rows"]) == 7


@pytest.mark.long
def test_a_run_keeps_its_version_of_a_data_set_that_grows(
    digits: Location, tmp_path: Path, ray_cluster: tuple[str, str]
) -> None:
    folder = damaged_copy(digits, tmp_path / "shards", "none", "")
    words = ["digits", *TINY, f"data.shards={folder}", f"storage={tmp_path / 'runs'}", "name=run"]
    assert train(*words, address=ray_cluster[0])[0] == 0
    write_folder(tmp_path / "more", {"one.png": encoded("PNG", (16, 16), "L")})
    grow = ["digits", "data.source=folder", f"data.source.uri={tmp_path / 'more'}", f"data.shards={folder}", "--append"]
    code, out, err = pipelines("ingest", *grow, cwd=tmp_path)
    assert code == 0, err
    assert "version 2, 1,798 images" in out
    code, _, err = train("resume=run", "steps=40", f"storage={tmp_path / 'runs'}", address=ray_cluster[0])
    assert code == 0, err
    stored = json.loads((tmp_path / "runs" / "run" / "run.json").read_text())
    assert stored["data"]["version"] == 1
    assert stored["data"]["shards"] == str(folder)


def test_too_little_memory_is_told_before_ray_starts(digits: Location, tmp_path: Path) -> None:
    words = ["digits", f"data.shards={digits}", f"storage={tmp_path}", "loader.memory_bytes=10KiB"]
    code, _, err = train(*words)
    assert code == 2
    assert "loader.memory_bytes: 10,240 is too little" in err


@pytest.mark.long
@pytest.mark.parametrize("stored", ["decoded", "encoded"])
def test_pictures_that_are_no_squares_train_and_are_made(
    stored: str, tmp_path: Path, ray_cluster: tuple[str, str]
) -> None:
    """Of any shape, by one command; and the model makes them, and says so."""
    shapes = [(90, 60), (40, 100), (32, 64)]
    write_folder(tmp_path / "photos", {f"{at}.jpg": encoded("JPEG", shapes[at % 3]) for at in range(80)})
    source = ["data.source=folder", f"data.source.uri={tmp_path / 'photos'}", f"data.stored={stored}"]
    words = ["digits", *TINY, *source, "data.transform={size: [32, 16], channels: 3}", f"storage={tmp_path / 'runs'}"]
    more = ["replicas=2", "cluster.cpus_per_replica=1", "name=run"]
    code, out, err = train(*words, *more, address=ray_cluster[0])
    assert code == 0, err
    assert "80 of 32x16x3, on 2 replicas" in out
    (shards,) = (tmp_path / "runs" / "shards").glob("folder-*")
    code, out, err = pipelines("inspect", str(shards), "--size", "[32,16]", "--sheet", "sheet.png", cwd=tmp_path)
    assert code == 0, err
    assert ("size=[32, 16]" in out) == (stored == "decoded")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * (2 + 8 * (16 + 2)), 2 * (2 + 8 * (32 + 2))), "64 pictures, enlarged twice"
    tracking = f"sqlite:///{tmp_path}/runs/mlflow.db"
    made = ["--model", "models:/selfgan-digits/latest", "--tracking", tracking, "--cache", str(tmp_path / "cache")]
    code, _, err = called(generate_main, *made, "--n", "3", "--out", str(tmp_path / "made"))
    assert code == 0, err
    assert {Image.open(file).size for file in (tmp_path / "made").iterdir()} == {(16, 32)}
    card = next((tmp_path / "cache").rglob("README.md")).read_text()
    assert "Images of 32x16 (height x width), RGB" in card


@pytest.mark.long
def test_a_large_source_is_ingested_in_parallel_by_the_run_itself(tmp_path: Path, ray_cluster: tuple[str, str]) -> None:
    """With pictures stored encoded, which the replicas decode."""
    bedrooms(tmp_path / "lmdb", 400, (160, 128), "PNG")
    write_lmdb(tmp_path / "lmdb", {"f" * 40: b"not a picture"})
    source = ["data.source=lsun", f"data.source.uri={tmp_path / 'lmdb'}", "data.transform.channels=3"]
    words = ["digits", *TINY, *source, "data.stored=encoded", f"storage={tmp_path / 'runs'}", "name=run"]
    code, out, err = train(*words, "replicas=2", "cluster.cpus_per_replica=1", address=ray_cluster[0])
    assert code == 0, err
    assert "400 of 16x16x3, on 2 replicas" in out
    (folder,) = (tmp_path / "runs" / "shards").glob("lsun-*")
    assert read_manifest(Location.of(str(folder))).skipped == {"no picture": 1}
