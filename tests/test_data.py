"""Sources, transform, shards and loader, on made-up files and, where they are, on the real ones."""

import gzip
import io
import struct
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.images import Transform
from pipelines.ingest import ingest
from pipelines.loader import Loader
from pipelines.shards import MANIFEST, read_images, read_manifest
from pipelines.sources import Source
from pipelines.sources.digits import Digits
from pipelines.sources.idx import Idx
from pipelines.sources.lsun import Lsun
from pipelines.storage import Location
from service.components import ConfigError

RANDOM = np.random.default_rng(0)


def write_idx(folder: Path, zipped: bool, count: int = 7) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    images = RANDOM.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    files = {
        "train-images-idx3-ubyte": struct.pack(">4I", 0x803, count, 28, 28) + images.tobytes(),
        "train-labels-idx1-ubyte": struct.pack(">2I", 0x801, count) + bytes(range(count)),
    }
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        file = folder / (f"{name}.gz" if zipped else name)
        file.write_bytes(gzip.compress(content) if zipped else content)
    return images


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_gives_every_image_and_label(zipped: bool, tmp_path: Path) -> None:
    images = write_idx(tmp_path, zipped)
    samples = list(Idx(uri=str(tmp_path)).samples())
    assert [sample.label for sample in samples] == list(range(7))
    assert all(np.array_equal(sample.picture, image) for sample, image in zip(samples, images, strict=True))


@pytest.mark.parametrize("damage", ["cut", "cut gzip", "wrong kind", "missing"])
def test_a_damaged_idx_file_is_named(damage: str, tmp_path: Path) -> None:
    write_idx(tmp_path, zipped=damage == "cut gzip")
    name = "train-images-idx3-ubyte" + (".gz" if damage == "cut gzip" else "")
    content = (tmp_path / name).read_bytes()
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content[:100] if damage.startswith("cut") else b"GIF8" + content[4:])
    with pytest.raises(ConfigError, match="train-images-idx3-ubyte"):
        list(Idx(uri=str(tmp_path)).samples())


def write_lmdb(folder: Path, values: dict[str, bytes]) -> None:
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)


def encoded(kind: str, size: tuple[int, int] = (90, 60)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def test_lsun_values_are_decoded_by_content(tmp_path: Path) -> None:
    values = {f"{index:040x}": encoded(kind) for index, kind in enumerate(("WEBP", "JPEG", "PNG"))}
    write_lmdb(tmp_path / "bedroom", values)
    target = Location.of(str(tmp_path / "shards"))
    manifest = ingest(Lsun(uri=str(tmp_path / "bedroom")), Transform(size=32), target)
    assert (manifest.rows, manifest.skipped) == (3, {})
    assert read_images(target, manifest.shards[0]).shape == (3, 32, 32, 3)


def test_what_is_no_picture_is_counted_and_too_much_of_it_refused(tmp_path: Path) -> None:
    values = {f"{index:040x}": encoded("PNG", (8, 8)) for index in range(200)}
    write_lmdb(tmp_path / "few", {**values, "x": b"not a picture"})
    manifest = ingest(Lsun(uri=str(tmp_path / "few")), Transform(size=8), Location.of(str(tmp_path / "a")))
    assert (manifest.rows, manifest.skipped) == (200, {"undecodable": 1})
    write_lmdb(tmp_path / "many", {**values, **{f"x{index}": b"" for index in range(9)}})
    target = Location.of(str(tmp_path / "b"))
    with pytest.raises(ConfigError, match="9 of 209 samples are no pictures"):
        ingest(Lsun(uri=str(tmp_path / "many")), Transform(size=8), target)
    assert not (target / MANIFEST).exists()


def test_the_transform_crops_the_centre() -> None:
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 200
    for channels in (1, 3):
        image = Transform(size=20, channels=channels)(picture)
        assert image.shape == (20, 20, channels)
        assert (image == 200).all()


def test_shards_hold_what_was_written_and_name_their_version(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "idx", zipped=False)
    transform = Transform(size=28, channels=1)
    source = Idx(uri=str(tmp_path / "idx"))
    folder = Location.of(str(tmp_path / "a"))
    manifest = ingest(source, transform, folder, rows_per_shard=3)
    assert [shard.rows for shard in manifest.shards] == [3, 3, 1]
    assert manifest == read_manifest(folder)
    stored = np.concatenate([read_images(folder, shard) for shard in manifest.shards])
    assert np.array_equal(stored[..., 0], images)
    assert ingest(source, transform, Location.of(str(tmp_path / "b")), rows_per_shard=3).hash == manifest.hash
    write_idx(tmp_path / "idx", zipped=False)
    assert ingest(source, transform, Location.of(str(tmp_path / "c")), rows_per_shard=3).hash != manifest.hash
    file = Path(folder.path, manifest.shards[1].name)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"shard-00001\.arrow has"):
        read_images(folder, manifest.shards[1])


def test_the_loader_gives_the_orders_rows(digits: Location) -> None:
    loader = Loader(digits, 64, 0, 0, 1)
    everything = np.concatenate([read_images(digits, shard) for shard in loader.manifest.shards])
    batch = loader.batch(5)
    expected = everything[loader._order.share(5, 0, 1).indices]
    assert torch.equal(batch.images, torch.from_numpy(expected).permute(0, 3, 1, 2))
    parts = [Loader(digits, 64, 0, rank, 3).batch(5) for rank in range(3)]
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)


@pytest.mark.parametrize(("source", "size", "rows"), [(Digits(), 16, 1797)])
def test_the_bundled_digits(source: Source, size: int, rows: int, tmp_path: Path) -> None:
    manifest = ingest(source, Transform(size=size, channels=1), Location.of(str(tmp_path)))
    assert (manifest.rows, manifest.lanes, manifest.height) == (rows, 64, size)


def test_real_mnist_and_real_bedrooms(shared_data: Path, tmp_path: Path) -> None:
    mnist = Idx(uri=str(shared_data / "mnist"), split="t10k")
    manifest = ingest(mnist, Transform(size=28, channels=1), Location.of(str(tmp_path / "mnist")))
    assert (manifest.rows, len(manifest.shards)) == (10_000, 2)
    bedrooms = Lsun(uri=str(shared_data / "bedroom_val_lmdb"))
    manifest = ingest(bedrooms, Transform(size=64), Location.of(str(tmp_path / "bedroom")))
    assert (manifest.rows, manifest.skipped) == (60, {})
