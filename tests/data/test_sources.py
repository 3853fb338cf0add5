"""Sources: every format gives its samples, whole or in parts, from wherever it lies."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.components import ConfigError, Options
from pipelines.data.shards import Images
from pipelines.data.sources import ArraySource, Sample, Source
from pipelines.data.sources.cifar import Cifar
from pipelines.data.sources.digits import Digits
from pipelines.data.sources.folder import Folder
from pipelines.data.sources.idx import Idx
from pipelines.data.sources.lsun import Lsun
from pipelines.data.sources.pairs import Pairs
from pipelines.data.sources.unpaired import Unpaired
from tests.made_data import bedrooms, encoded, write_folder, write_idx, write_lmdb, write_zip


def samples(source: Source) -> list[Sample]:
    """All samples, read in parts, as the tasks of an ingest do."""
    index = source.index()
    return [sample for start in range(0, len(index), 3) for sample in source.read(index.slice(start, 3))]


def contents(source: Source) -> dict[str, bytes]:
    return {sample.key: sample.pictures[0] for sample in samples(source)}  # type: ignore[misc]


class _Given(Options):
    images: Any
    name: str = "some"


def test_an_array_may_be_an_option_and_an_empty_text_not() -> None:
    images = np.zeros((2, 3))
    assert _Given(images=images).images is images
    with pytest.raises(ValueError, match="input should not be empty"):
        _Given(images=images, name="")


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_gives_every_image_and_label(zipped: bool, tmp_path: Path) -> None:
    images = write_idx(tmp_path, zipped)
    found = samples(Idx(uri=str(tmp_path)))
    assert [sample.label for sample in found] == list(range(7))
    assert all(np.array_equal(sample.pictures[0], image) for sample, image in zip(found, images, strict=True))


@pytest.mark.parametrize("damage", ["cut", "cut header", "cut gzip", "wrong kind", "missing"])
def test_a_damaged_idx_file_is_named(damage: str, tmp_path: Path) -> None:
    write_idx(tmp_path, zipped=damage == "cut gzip")
    name = "train-images-idx3-ubyte" + (".gz" if damage == "cut gzip" else "")
    content = (tmp_path / name).read_bytes()
    if damage == "missing":
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(
            content[: 9 if damage == "cut header" else 100] if damage.startswith("cut") else b"GIF8" + content[4:]
        )
    with pytest.raises(ConfigError, match="train-images-idx3-ubyte"):
        Idx(uri=str(tmp_path)).index()


class Floats(ArraySource):
    """Pictures from 0 to 1, as many libraries have them."""

    def arrays(self) -> tuple[Images, NDArray[np.integer]]:
        return np.full((2, 8, 8), 0.5, np.float32), np.zeros(2, int)

    def key(self, row: int) -> str:
        return str(row)

    def fingerprint(self) -> str:
        return "floats"

    def describe(self) -> str:
        return "floats"


def test_pictures_of_floats_are_refused_instead_of_black() -> None:
    message = r"data.source: the pictures of \S+ are float32, and must be uint8, 0 to 255; scale"
    with pytest.raises(ConfigError, match=message):
        Floats().index()
    with pytest.raises(ConfigError, match=message):
        next(Floats().read(Digits().index()))


def test_the_bundled_digits() -> None:
    found = samples(Digits())
    assert len(found) == 1797
    assert {sample.label for sample in found} == set(range(10))


def write_cifar(folder: Path, files: dict[str, int], labels: str) -> Images:
    folder.mkdir()
    pixels: list[Images] = []
    for name, count in files.items():
        values = np.random.default_rng(len(pixels)).integers(0, 256, (count, 3072), dtype=np.uint8)
        pixels.append(values)
        (folder / name).write_bytes(pickle.dumps({b"data": values, labels.encode(): list(range(count))}, protocol=2))
    return np.concatenate(pixels)


@pytest.mark.parametrize(
    ("files", "labels"), [({"data_batch_1": 3, "data_batch_2": 4}, "labels"), ({"train": 5}, "fine_labels")]
)
def test_cifar_gives_every_image_as_height_width_colour(files: dict[str, int], labels: str, tmp_path: Path) -> None:
    pixels = write_cifar(tmp_path / "cifar", files, labels)
    found = samples(Cifar(uri=str(tmp_path / "cifar")))
    assert len(found) == len(pixels)
    for sample, values in zip(found, pixels, strict=True):
        assert np.array_equal(np.moveaxis(np.asarray(sample.pictures[0]), 2, 0).reshape(-1), values)


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps(Exploit()), pickle.dumps({b"data": np.zeros((2, 5))})])
def test_a_cifar_file_that_is_none_runs_no_code(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "test").write_bytes(content)
    with pytest.raises(ConfigError, match=r"test: no CIFAR batch|test: has"):
        Cifar(uri=str(tmp_path), split="test").index()


def test_lsun_gives_what_the_lmdb_library_gives(tmp_path: Path) -> None:
    values = {f"{at * 7919 % 3000:040x}": bytes([at % 251]) * (at * 37 % 9000) for at in range(3000)}
    write_lmdb(tmp_path / "bedroom", values)
    with lmdb.open(str(tmp_path / "bedroom"), readonly=True) as environment, environment.begin() as transaction:
        expected = [(key.decode(), bytes(value)) for key, value in transaction.cursor()]
    found = samples(Lsun(uri=str(tmp_path / "bedroom")))
    assert [(sample.key, sample.pictures[0]) for sample in found] == expected
    assert all(sample.label is None for sample in found)


def test_real_lsun_gives_what_the_lmdb_library_gives(shared_data: Path) -> None:
    for folder in shared_data.glob("*_lmdb"):
        with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
            expected = [(key.decode(), bytes(value)) for key, value in transaction.cursor()]
        assert list(contents(Lsun(uri=str(folder))).items()) == expected


def test_an_lmdb_is_read_where_it_lies_in_a_zip(tmp_path: Path) -> None:
    values = bedrooms(tmp_path / "bedroom_train_lmdb", 20)
    data = (tmp_path / "bedroom_train_lmdb" / "data.mdb").read_bytes()
    members = {"bedroom_train_lmdb/lock.mdb": b"x" * 17, "bedroom_train_lmdb/data.mdb": data}
    write_zip(tmp_path / "stored.zip", members)
    assert contents(Lsun(uri=str(tmp_path / "stored.zip"))) == values
    assert contents(Lsun(uri=str(tmp_path / "bedroom_train_lmdb" / "data.mdb"))) == values
    write_zip(tmp_path / "deflated.zip", members, zipfile.ZIP_DEFLATED)
    with pytest.raises(ConfigError, match=r"compressed inside .*deflated.zip.*unzip it \(it needs 0.0 GB of disk\)"):
        Lsun(uri=str(tmp_path / "deflated.zip")).index()


@pytest.mark.parametrize("damage", ["cut", "short", "other", "tree", "noise", "empty"])
def test_what_is_no_lmdb_is_named(damage: str, tmp_path: Path) -> None:
    bedrooms(tmp_path / "lmdb", 200)
    file = tmp_path / "lmdb" / "data.mdb"
    content = file.read_bytes()
    used = content.rstrip(b"\0")
    damaged = {
        "cut": used[: len(used) // 2],
        "short": content[:100],
        "other": b"GIF89a" + content[6:100_000].replace(b"\xde\xc0\xef\xbe", b"????"),
        "tree": content[:8192] + bytes(len(content) - 8192),
        "noise": content[:8192] + np.random.default_rng(0).bytes(len(used)),
        "empty": b"",
    }
    file.write_bytes(damaged[damage])
    with pytest.raises(ConfigError, match=r"data\.mdb cannot be read as an LMDB"):
        Lsun(uri=str(tmp_path / "lmdb")).index()


def test_a_folder_tree_gives_its_pictures_and_its_first_folders_as_classes(tmp_path: Path) -> None:
    files = {f"{name}/{at}.png": encoded() for name in ("dogs", "cats") for at in range(3)}
    write_folder(tmp_path / "photos", {**files, ".DS_Store": b"x", "__MACOSX/dogs/0.png": b"x"})
    source = Folder(uri=str(tmp_path / "photos"))
    assert contents(source) == dict(sorted(files.items()))
    assert source.index().column("class").to_pylist() == ["cats"] * 3 + ["dogs"] * 3
    assert "class" not in Folder(uri=str(tmp_path / "photos"), classes=False).index().column_names
    write_folder(tmp_path / "photos", {"README.txt": b"x"})
    labels = source.index().column("class").to_pylist()
    assert labels == [None] + ["cats"] * 3 + ["dogs"] * 3  # What lies beside the folders has no class.
    assert set(contents(Folder(uri=str(tmp_path / "photos"), inside="dogs"))) == {f"dogs/{at}.png" for at in range(3)}
    with pytest.raises(ConfigError, match=r"has no 'birds'; it has README.txt, cats, dogs"):
        Folder(uri=str(tmp_path / "photos"), inside="birds").index()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zips_are_read_like_folders_and_zips_in_them_too(compression: int, tmp_path: Path) -> None:
    inner = {f"data0/lsun/bedroom/{at}/{at}.jpg": encoded("JPEG") for at in range(4)}
    outer = {f"sample/{at}.png": encoded() for at in range(3)}
    write_zip(tmp_path / "20.zip", inner, compression)
    write_zip(tmp_path / "plain.zip", outer, compression)
    assert contents(Folder(uri=str(tmp_path / "plain.zip"))) == outer
    with zipfile.ZipFile(tmp_path / "kaggle.zip", "w") as archive:
        archive.write(tmp_path / "20.zip", "20.zip", zipfile.ZIP_STORED)
        for name, content in outer.items():
            archive.writestr(name, content, compression)
    expected = {**{f"20.zip/{name}": content for name, content in inner.items()}, **outer}
    assert contents(Folder(uri=str(tmp_path / "kaggle.zip"))) == expected
    only = Folder(uri=str(tmp_path / "kaggle.zip"), inside="20.zip")
    assert only.index().column("class").to_pylist() == ["0", "1", "2", "3"]
    with zipfile.ZipFile(tmp_path / "deflated.zip", "w") as archive:
        archive.write(tmp_path / "20.zip", "20.zip", zipfile.ZIP_DEFLATED)
    with pytest.raises(ConfigError, match=r"20\.zip is compressed inside .*deflated\.zip.*GB of disk"):
        Folder(uri=str(tmp_path / "deflated.zip")).index()


def test_a_damaged_zip_is_named(tmp_path: Path) -> None:
    write_zip(tmp_path / "cut.zip", {"a.png": encoded()})
    content = (tmp_path / "cut.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[:-30])
    with pytest.raises(ConfigError, match=r"cut\.zip is a damaged zip"):
        Folder(uri=str(tmp_path / "cut.zip")).index()


def test_pairs_side_by_side_and_in_two_folders(tmp_path: Path) -> None:
    files = {f"{at}.jpg": encoded("JPEG") for at in range(4)}
    others = {f"{at}.png": encoded() for at in range(4)}
    write_folder(tmp_path / "a", {f"train/{name}": content for name, content in files.items()})
    write_folder(tmp_path / "b", {f"train/{name}": content for name, content in others.items()})
    one = Pairs(uri=str(tmp_path / "a"), inside="train")
    assert (one.columns, one.side_by_side) == (("image", "paired"), True)
    assert [sample.pictures for sample in samples(one)] == [(content,) for content in files.values()]
    two = Pairs(uri=str(tmp_path / "a"), other_uri=str(tmp_path / "b"), inside="train")
    assert not two.side_by_side
    assert [sample.pictures for sample in samples(two)] == list(zip(files.values(), others.values(), strict=True))
    (tmp_path / "b" / "train" / "2.png").unlink()
    with pytest.raises(ConfigError, match=r"/b has no 'train/2': 1 pictures have no partner"):
        two.index()


def test_unpaired_domains_are_data_sets_of_their_own(tmp_path: Path) -> None:
    write_folder(tmp_path, {f"{folder}/{at}.png": encoded() for folder in ("trainA", "trainB") for at in range(3)})
    write_folder(tmp_path, {"testA/9.png": encoded()})
    assert set(contents(Unpaired(uri=str(tmp_path), domain="B"))) == {f"trainB/{at}.png" for at in range(3)}
    assert set(contents(Unpaired(uri=str(tmp_path), domain="A", split="test"))) == {"testA/9.png"}
    with pytest.raises(ConfigError, match="has no 'testB'"):
        Unpaired(uri=str(tmp_path), domain="B", split="test").index()


def test_a_fingerprint_follows_the_content(tmp_path: Path) -> None:
    write_folder(tmp_path, {"0.png": encoded()})
    source = Folder(uri=str(tmp_path))
    before = source.fingerprint()
    assert before == source.fingerprint()
    write_folder(tmp_path, {"1.png": encoded()})
    assert source.fingerprint() != before
