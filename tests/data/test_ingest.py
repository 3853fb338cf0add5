"""Ingest: what is written, in which order, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
from PIL import Image

from pipelines.components import ConfigError
from pipelines.data.images import Transform
from pipelines.data.ingest import here, ingest
from pipelines.data.inspection import damages
from pipelines.data.plan import Options
from pipelines.data.ray_tasks import on_ray
from pipelines.data.shard_writer import Part, Work, write_shard
from pipelines.data.shards import Images, Manifest, read_manifest, versions
from pipelines.data.sources.folder import Folder
from pipelines.data.sources.idx import Idx
from pipelines.data.sources.lsun import Lsun
from pipelines.data.sources.pairs import Pairs
from pipelines.loading.blocks import Blocks
from pipelines.storage.location import Location
from tests.conftest import RAY_ENVIRONMENT, ROOT
from tests.made_data import bedrooms, encoded, write_folder, write_idx, write_lmdb

SMALL = Transform(size=16)


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def rows(folder: Location, version: int | None = None) -> tuple[Images, list[int], list[str]]:
    """Every image, label and key of a data set."""
    manifest = read_manifest(folder, version)
    blocks = Blocks(folder, manifest)
    opened = [blocks.open(number) for number in range(len(blocks))]
    tables = [pa.ipc.open_file((folder / shard.name).open()).read_all() for shard in manifest.shards]
    keys = [key for table in tables for key in table.column("key").to_pylist()]
    images = np.concatenate([np.asarray(block.pictures["image"]) for block in opened])
    return images, np.concatenate([block.labels for block in opened]).tolist(), keys


def test_more_lanes_are_of_another_data_set_and_kept_when_it_grows(tmp_path: Path) -> None:
    write_idx(tmp_path / "idx", count=700)
    write_idx(tmp_path / "more", count=800)
    folder, transform = Location.of(str(tmp_path / "a")), Transform(size=28, channels=1)
    source = Idx(uri=str(tmp_path / "idx"))
    manifest = ingest(source, transform, folder, Options(lanes=150))
    assert (manifest.lanes, manifest.block_rows) == (150, 1)
    with pytest.raises(ConfigError, match="holds another data set"):
        ingest(source, transform, folder)
    grown = ingest(Idx(uri=str(tmp_path / "more")), transform, folder, Options(append=True, skip_limit=1))
    assert grown.lanes == 150


def test_shards_hold_what_was_in_the_source(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "idx", count=700)
    folder = Location.of(str(tmp_path / "a"))
    manifest = ingest(Idx(uri=str(tmp_path / "idx")), Transform(size=28, channels=1), folder, Options(shard_rows=300))
    assert manifest == read_manifest(folder)
    assert [shard.rows for shard in manifest.shards] == [300, 300, 100]
    assert (manifest.rows, manifest.lanes, manifest.block_rows, manifest.shape) == (700, 64, 2, (28, 28, 1))
    stored, labels, keys = rows(folder)
    assert np.array_equal(stored[..., 0], images)
    assert labels == [at % 10 for at in range(700)]
    assert keys == [f"train-{at:05}" for at in range(700)]
    assert damages(folder, manifest) == []


def test_the_hash_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    write_idx(tmp_path / "idx", count=70)

    def hash_at(name: str) -> str:
        return ingest(
            Idx(uri=str(tmp_path / "idx")), Transform(size=28, channels=1), Location.of(str(tmp_path / name))
        ).hash

    first = hash_at("a")
    assert hash_at("b") == first
    write_idx(tmp_path / "idx", count=70)
    assert hash_at("c") != first


def test_lsun_pictures_are_transformed_as_by_hand(tmp_path: Path) -> None:
    values = bedrooms(tmp_path / "lmdb", 30)
    folder = Location.of(str(tmp_path / "shards"))
    ingest(Lsun(uri=str(tmp_path / "lmdb")), SMALL, folder)
    stored, labels, keys = rows(folder)
    assert keys == list(values)
    assert np.array_equal(stored, np.stack([SMALL(value) for value in values.values()]))
    assert set(labels) == {-1}


def test_real_mnist_and_real_bedrooms(shared_data: Path, tmp_path: Path) -> None:
    mnist = Idx(uri=str(shared_data / "mnist"), split="t10k")
    manifest = ingest(mnist, Transform(size=28, channels=1), Location.of(str(tmp_path / "mnist")))
    assert (manifest.rows, len(manifest.shards)) == (10_000, 2)
    bed = Lsun(uri=str(shared_data / "bedroom_val_lmdb"))
    manifest = ingest(bed, Transform(size=64), Location.of(str(tmp_path / "bedroom")))
    assert (manifest.rows, manifest.skipped) == (60, {})


def test_encoded_pictures_keep_their_bytes(tmp_path: Path) -> None:
    values = bedrooms(tmp_path / "lmdb", 20)
    folder = Location.of(str(tmp_path / "shards"))
    manifest = ingest(Lsun(uri=str(tmp_path / "lmdb")), SMALL, folder, Options(stored="encoded"))
    assert (manifest.stored, manifest.shape, manifest.transform) == ("encoded", None, None)
    blocks = Blocks(folder, manifest)
    stored = [value.as_py() for at in range(len(blocks)) for value in blocks.open(at).pictures["image"]]
    assert stored == list(values.values())


def test_pairs_become_two_columns(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {f"{at}.png": encoded("PNG", (60, 30)) for at in range(5)})
    folder = Location.of(str(tmp_path / "shards"))
    manifest = ingest(Pairs(uri=str(tmp_path / "a")), SMALL, folder)
    assert manifest.columns == ("image", "paired")
    whole = Transform(size=30)
    both = Blocks(folder, manifest).open(0).pictures
    picture = Image.open(tmp_path / "a" / "0.png")
    for name, box in (("image", (0, 0, 30, 30)), ("paired", (30, 0, 60, 30))):
        assert np.array_equal(np.asarray(both[name])[0], SMALL(whole(np.asarray(picture.crop(box)))))


def test_what_cannot_be_used_is_counted_by_kind_and_named(tmp_path: Path) -> None:
    good = {f"{at:04}.png": encoded("PNG", (20, 16)) for at in range(300)}
    bad = {"x-empty": b"", "x-text": b"hello", "x-cut.jpg": encoded("JPEG")[:200], "x-dot.png": encoded("PNG", (1, 1))}
    write_folder(tmp_path / "photos", {**good, **bad, "y-grey.png": encoded("PNG", (20, 16), "L")})
    source, folder = Folder(uri=str(tmp_path / "photos")), Location.of(str(tmp_path / "shards"))
    manifest = ingest(source, SMALL, folder, Options(skip_limit=0.02))
    assert manifest.rows == 301
    assert manifest.skipped == {"empty": 1, "no picture": 1, "too small": 1, "truncated": 1}
    assert manifest.converted == {"L to RGB": 1}
    report = json.loads((folder / "skipped-00001.json").read())
    assert report["no picture"] == {"count": 1, "examples": ["x-text: starts with b'hello'"]}
    with pytest.raises(ConfigError, match=r"4 of 305 samples cannot be used .* more than skip_limit=0.01 allows"):
        ingest(source, SMALL, Location.of(str(tmp_path / "other")))
    assert versions(Location.of(str(tmp_path / "other"))) == []


def test_a_foreign_lmdb_is_refused_before_it_has_been_read_through(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "lmdb", {f"{at:040x}": b"a record of something" for at in range(5000)})
    done: list[int] = []
    with pytest.raises(ConfigError, match=r"100 of 5000 samples cannot be used \(no picture, such as 0{40}"):
        ingest(
            Lsun(uri=str(tmp_path / "lmdb")),
            SMALL,
            Location.of(str(tmp_path / "shards")),
            Options(shard_rows=100),
            report=lambda finished, samples: done.append(finished),
        )
    assert max(done) == 100


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "lmdb", {})
    with pytest.raises(ConfigError, match="no pictures"):
        ingest(Lsun(uri=str(tmp_path / "lmdb")), SMALL, Location.of(str(tmp_path / "shards")))


def stopping_after(count: int) -> Callable[[list[Work], Callable[[int], None]], Iterator[Part]]:
    """Does some of the work, and is then killed, as it were, while writing the next shard."""

    def tasks(works: list[Work], progress: Callable[[int], None]) -> Iterator[Part]:
        for work in works[:count]:
            yield write_shard(work, progress)
        left = Path(work.target, "shard-00001-99999.arrow.0.partial")
        left.write_bytes(b"half a shard")
        os.utime(left, (0, 0))  # It is old by the time that somebody goes on.
        raise KeyboardInterrupt

    return tasks


def test_a_stopped_ingest_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", {f"{at:03}.png": encoded("PNG", (20, 16)) for at in range(95)})
    (tmp_path / "photos" / "050.png").write_bytes(b"bad")
    source, options = Folder(uri=str(tmp_path / "photos")), Options(shard_rows=10, skip_limit=0.1)
    ingest(source, SMALL, Location.of(str(tmp_path / "whole")), options)
    target = Location.of(str(tmp_path / "stopped"))
    for done in (3, 2):
        with pytest.raises(KeyboardInterrupt):
            ingest(source, SMALL, target, options, stopping_after(done))
        assert versions(target) == []
    again: list[str] = []

    def counting(works: list[Work], progress: Callable[[int], None]) -> Iterator[Part]:
        again.extend(work.shard for work in works)
        yield from here(works, progress)

    ingest(source, SMALL, target, options, counting)
    assert len(again) == 5
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    ingest(source, SMALL, target, options, stopping_after(0))  # Nothing is left to do.


@pytest.mark.parametrize("kills", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_killed_ingest_goes_on_and_gives_the_same_bytes(kills: int, tmp_path: Path) -> None:
    """With SIGKILL, in the middle of the work of several Ray tasks."""
    write_folder(tmp_path / "photos", {f"{at:04}.webp": encoded("WEBP", (300, 260)) for at in range(400)})
    source, options = Folder(uri=str(tmp_path / "photos")), Options(shard_rows=20)
    ingest(source, SMALL, Location.of(str(tmp_path / "whole")), options)
    script = f"""
import ray
from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.plan import Options
from pipelines.data.ray_tasks import on_ray
from pipelines.data.sources.folder import Folder
from pipelines.storage.location import Location
ray.init(address="local", num_cpus=2, include_dashboard=False, runtime_env={{"env_vars": {{"PYTHONPATH": "{ROOT}"}}}})
target = Location.of("{tmp_path / "killed"}")
ingest(Folder(uri="{tmp_path / "photos"}"), Transform(size=16), target, Options(shard_rows=20), on_ray)
"""
    environment = {**os.environ, **RAY_ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    done = tmp_path / "killed"
    killed_at: list[int] = []
    while not (tmp_path / "killed" / "manifest-00001.json").exists():
        before = len(list(done.glob("ingest-00001-*/*.json")))
        process = subprocess.Popen([sys.executable, "-c", script], env=environment, start_new_session=True)
        while process.poll() is None and (
            len(killed_at) == kills or len(list(done.glob("ingest-00001-*/*.json"))) < before + 4
        ):
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed_at.append(len(list(done.glob("ingest-00001-*/*.json"))))
            time.sleep(0.5)  # Ray's workers notice that their driver has gone.
        assert process.wait() in (0, -signal.SIGKILL)
    print(f"\nkilled with {killed_at} of 20 shards done")
    assert len(killed_at) == kills
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_ray_tasks_write_what_one_process_writes(ray_cluster: tuple[str, str], tmp_path: Path) -> None:
    bedrooms(tmp_path / "lmdb", 50)
    source, options = Lsun(uri=str(tmp_path / "lmdb")), Options(shard_rows=8)
    ingest(source, SMALL, Location.of(str(tmp_path / "one")), options)
    finished: list[int] = []
    environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    with ray.init(address=ray_cluster[0], runtime_env=environment, log_to_driver=False):
        ingest(
            source,
            SMALL,
            Location.of(str(tmp_path / "many")),
            options,
            on_ray,
            lambda done, samples: finished.append(done),
        )
        write_lmdb(tmp_path / "foreign", {str(at): b"?" for at in range(30)})
        with pytest.raises(ConfigError, match="cannot be used"):
            ingest(Lsun(uri=str(tmp_path / "foreign")), SMALL, Location.of(str(tmp_path / "no")), options, on_ray)
        (tmp_path / "lmdb" / "data.mdb").unlink()
        with pytest.raises(ConfigError, match="does not exist"):
            ingest(source, SMALL, Location.of(str(tmp_path / "gone")), options, on_ray)
    assert files(tmp_path / "many") == files(tmp_path / "one")
    assert finished[-1] == 50


def test_another_data_set_is_not_mixed_in(tmp_path: Path) -> None:
    for name in ("a", "b"):
        bedrooms(tmp_path / name, 10)
    first, second = (Lsun(uri=str(tmp_path / name)) for name in ("a", "b"))
    folder = Location.of(str(tmp_path / "shards"))
    ingest(first, SMALL, folder)
    before = files(tmp_path / "shards")
    with pytest.raises(ConfigError, match=r"holds another data set .*name another folder, or add to it with --append"):
        ingest(second, SMALL, folder)
    with pytest.raises(ConfigError, match="holds another data set"):
        ingest(first, Transform(size=20), folder)
    with pytest.raises(ConfigError, match="cannot be appended to it"):
        ingest(second, Transform(size=20), folder, Options(append=True))
    assert files(tmp_path / "shards") == before
    unfinished = Location.of(str(tmp_path / "unfinished"))
    with pytest.raises(KeyboardInterrupt):
        ingest(first, SMALL, unfinished, Options(shard_rows=5), stopping_after(1))
    with pytest.raises(ConfigError, match=r"an unfinished ingest of LSUN LMDB a, .*ingest-00001.json to abandon it"):
        ingest(second, SMALL, unfinished)
    with pytest.raises(ConfigError, match="holds no data set to append to"):
        ingest(first, SMALL, Location.of(str(tmp_path / "nothing")), Options(append=True))


def test_an_appended_batch_makes_a_version_that_shares_the_old_shards(tmp_path: Path) -> None:
    old = bedrooms(tmp_path / "a", 12)
    new = {"f" * 39 + "1": encoded("WEBP"), "f" * 39 + "2": encoded("WEBP")}
    write_lmdb(tmp_path / "b", {**new, next(iter(old)): encoded("WEBP")})
    folder = Location.of(str(tmp_path / "shards"))
    first = ingest(Lsun(uri=str(tmp_path / "a")), SMALL, folder)
    before = files(tmp_path / "shards")
    options = Options(append=True)
    second = ingest(Lsun(uri=str(tmp_path / "b")), SMALL, folder, options)
    assert (second.version, second.rows, versions(folder)) == (2, 14, [1, 2])
    assert second.shards[: len(first.shards)] == first.shards
    assert second.skipped == {}
    assert second.hash != first.hash
    assert rows(folder)[2] == [*old, *new]
    assert rows(folder, 1)[2] == list(old)
    assert read_manifest(folder, 1) == first
    assert before.items() <= files(tmp_path / "shards").items()
    assert ingest(Lsun(uri=str(tmp_path / "b")), SMALL, folder, options) == second  # Once is enough.


def test_a_data_set_can_grow_with_its_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {f"{at}.png": encoded() for at in range(20)})
    source, folder = Folder(uri=str(tmp_path / "a")), Location.of(str(tmp_path / "shards"))
    ingest(source, SMALL, folder)
    with pytest.raises(ConfigError, match="no new pictures found"):
        os.utime(tmp_path / "a" / "0.png", (0, 0))
        ingest(source, SMALL, folder, Options(append=True))
    write_folder(tmp_path / "a", {"new.png": encoded(), "new2.png": encoded()})
    assert ingest(source, SMALL, folder, Options(append=True)).rows == 22
    assert set(files(tmp_path / "shards")) == {
        "manifest-00001.json",
        "manifest-00002.json",
        "shard-00001-00000.arrow",
        "shard-00002-00000.arrow",
    }


def test_a_source_that_changes_while_it_is_read_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {f"{at}.png": encoded() for at in range(20)})
    source, folder = Folder(uri=str(tmp_path / "a")), Location.of(str(tmp_path / "shards"))

    def while_it_grows(works: list[Work], progress: Callable[[int], None]) -> Iterator[Part]:
        write_folder(tmp_path / "a", {"late.png": encoded()})
        yield from here(works, progress)

    with pytest.raises(ConfigError, match="changed while it was being read; ingest it again"):
        ingest(source, SMALL, folder, tasks=while_it_grows)
    assert ingest(source, SMALL, folder).rows == 21


def test_notes_of_another_ingest_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    for name in ("a", "b"):
        bedrooms(tmp_path / name, 20)
    first, second = (Lsun(uri=str(tmp_path / name)) for name in ("a", "b"))
    options, target = Options(shard_rows=5), Location.of(str(tmp_path / "shards"))
    with pytest.raises(KeyboardInterrupt):
        ingest(first, SMALL, target, options, stopping_after(2))
    (tmp_path / "shards" / "ingest-00001.json").unlink()  # As the message says, to give it up.
    manifest = ingest(second, SMALL, target, options)
    assert manifest.hash == ingest(second, SMALL, Location.of(str(tmp_path / "clean")), options).hash


def test_a_note_that_was_cut_short_is_written_again(tmp_path: Path) -> None:
    bedrooms(tmp_path / "a", 20)
    source, options, target = (
        Lsun(uri=str(tmp_path / "a")),
        Options(shard_rows=5),
        Location.of(str(tmp_path / "shards")),
    )
    with pytest.raises(KeyboardInterrupt):
        ingest(source, SMALL, target, options, stopping_after(2))
    next((tmp_path / "shards").glob("ingest-00001-*/*.json")).write_text("")
    assert ingest(source, SMALL, target, options).rows == 20


def test_classes_keep_their_labels_when_others_are_appended(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {f"{name}/{name}.png": encoded() for name in ("dogs", "cats")})
    write_folder(tmp_path / "b", {f"{name}/{name}-2.png": encoded() for name in ("dogs", "birds")})
    folder = Location.of(str(tmp_path / "shards"))
    assert ingest(Folder(uri=str(tmp_path / "a")), SMALL, folder).classes == ("cats", "dogs")
    manifest = ingest(Folder(uri=str(tmp_path / "b")), SMALL, folder, Options(append=True))
    assert manifest.classes == ("cats", "dogs", "birds")
    _, labels, keys = rows(folder)
    assert dict(zip(keys, labels, strict=True)) == {
        "cats/cats.png": 0,
        "dogs/dogs.png": 1,
        "birds/birds-2.png": 2,
        "dogs/dogs-2.png": 1,
    }


def test_of_two_ingests_at_once_one_wins(tmp_path: Path) -> None:
    bedrooms(tmp_path / "a", 10)
    source, folder = Lsun(uri=str(tmp_path / "a")), Location.of(str(tmp_path / "shards"))

    def overtaken(works: list[Work], progress: Callable[[int], None]) -> Iterator[Part]:
        assert ingest(source, SMALL, folder).rows == 10
        yield from here(works, progress)

    assert ingest(source, SMALL, folder, tasks=overtaken) == read_manifest(folder)
    other = Location.of(str(tmp_path / "other"))

    def robbed(works: list[Work], progress: Callable[[int], None]) -> Iterator[Part]:
        changed = read_manifest(folder).model_copy(update={"lanes": 3})
        (other / "manifest-00001.json").write(changed.model_dump_json().encode())
        yield from here(works, progress)

    with pytest.raises(ConfigError, match="another ingest wrote"):
        ingest(source, SMALL, other, tasks=robbed)


def test_shards_on_another_machines_disk_are_missed(tmp_path: Path) -> None:
    bedrooms(tmp_path / "a", 10)

    def elsewhere(works: list[Work], progress: Callable[[int], None]) -> Iterator[Part]:
        for part in here(works, progress):
            Path(works[0].target, works[0].shard).unlink()
            yield part

    with pytest.raises(ConfigError, match=r"shard-00001-00000\.arrow is missing or incomplete in .* all of them share"):
        ingest(Lsun(uri=str(tmp_path / "a")), SMALL, Location.of(str(tmp_path / "shards")), tasks=elsewhere)


def test_a_manifest_of_another_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest-00001.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match=r"manifest-00001\.json is not a manifest that this version can read"):
        read_manifest(Location.of(str(tmp_path)))


def test_a_manifest_says_what_is_in_the_shards(tmp_path: Path) -> None:
    bedrooms(tmp_path / "a", 10)
    manifest = ingest(Lsun(uri=str(tmp_path / "a")), SMALL, Location.of(str(tmp_path / "shards")))
    text = json.loads((tmp_path / "shards" / "manifest-00001.json").read_text())
    assert text["hash"] == manifest.hash
    assert text["fields"]["key"] == "string"
    assert text["transform"] == {"size": 16, "channels": 3, "resample": "lanczos", "background": "#ffffff"}
    assert isinstance(manifest, Manifest)
