"""Folders and zips of pictures as people have them: labels are read right or refused, and nothing is lost silently."""

import io
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipelines.components import ConfigError
from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.plan import Options
from pipelines.data.shards import Manifest, read_keys, read_manifest
from pipelines.data.sources.folder import Folder
from pipelines.loading.blocks import Blocks
from pipelines.storage.location import Location
from tests.made_data import encoded, write_folder, write_zip

SMALL, ALL_MAY_FAIL = Transform(size=16), Options(skip_limit=1.0)


def ingested(source: Path, **options: object) -> tuple[Location, Manifest]:
    place = Location.of(str(source.parent / f"{source.name}-shards"))
    return place, ingest(Folder(uri=str(source), **options), SMALL, place, ALL_MAY_FAIL)


def named_labels(source: Path, **options: object) -> dict[str, Any]:
    """By key, the labels of an ingested source."""
    place, manifest = ingested(source, **options)
    blocks, found = Blocks(place, manifest), list[Any]()
    for number in range(len(blocks)):
        block = blocks.open(number)
        found += block.labels.tolist()
        block.close()
    return dict(zip(read_keys(place, manifest).to_pylist(), found, strict=True))


def pictures(*names: str) -> dict[str, bytes]:
    return {name: encoded() for name in names}


LAYOUTS: dict[str, tuple[list[str], dict[str, int], tuple[str, ...]]] = {
    "flat": (["a.png", "b.png"], {"a.png": -1, "b.png": -1}, ()),
    "a folder a class": (["cat/1.png", "dog/1.png"], {"cat/1.png": 0, "dog/1.png": 1}, ("cat", "dog")),
    "files beside class folders": (
        ["1.png", "cat/1.png", "dog/1.png"], {"1.png": -1, "cat/1.png": 0, "dog/1.png": 1}, ("cat", "dog"),
    ),
    "numbers": (
        [f"{number}/1.png" for number in (0, 1, 2, 10, 11)],
        {"0/1.png": 0, "1/1.png": 1, "2/1.png": 2, "10/1.png": 3, "11/1.png": 4}, ("0", "1", "2", "10", "11"),
    ),
    "numbers with zeros before them": (["01/1.png", "1/1.png"], {"01/1.png": 0, "1/1.png": 1}, ("01", "1")),
    "deep folders": (
        ["set/cat/old/1.png", "set/dog/1.png"], {"set/cat/old/1.png": 0, "set/dog/1.png": 1}, ("cat", "dog"),
    ),
    "one folder": (["train/1.png", "train/2.png"], {"train/1.png": 0, "train/2.png": 0}, ("train",)),
    "numbers and words": (
        ["10/1.png", "9/1.png", "a/1.png"], {"9/1.png": 0, "10/1.png": 1, "a/1.png": 2}, ("9", "10", "a"),
    ),
    "files beside class folders further down": (
        ["train/cat/1.png", "train/dog/1.png", "train/1.png"],
        {"train/cat/1.png": 0, "train/dog/1.png": 1, "train/1.png": -1}, ("cat", "dog"),
    ),
    "one split of classes": (
        ["train/cat/1.png", "train/dog/1.png"], {"train/cat/1.png": 0, "train/dog/1.png": 1}, ("cat", "dog"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_layout_gives_its_labels(layout: str, zipped: bool, tmp_path: Path) -> None:
    names, expected, classes = LAYOUTS[layout]
    source = tmp_path / "source"
    write_zip(source, pictures(*names)) if zipped else write_folder(source, pictures(*names))
    assert named_labels(source) == expected
    assert read_manifest(Location.of(f"{source}-shards")).classes == classes


def test_splits_are_no_classes(tmp_path: Path) -> None:
    names = [f"{split}/{kind}/1.png" for split in ("train", "val") for kind in ("cat", "dog")]
    write_folder(tmp_path / "photos", pictures(*names))
    with pytest.raises(ConfigError, match=r"train, val in .*photos are splits.*data.source.inside=train, or .*false"):
        ingested(tmp_path / "photos")
    assert set(named_labels(tmp_path / "photos", classes=False).values()) == {-1}
    write_folder(tmp_path / "again", pictures(*names))
    assert named_labels(tmp_path / "again", inside="train") == {"train/cat/1.png": 0, "train/dog/1.png": 1}


@pytest.mark.parametrize("splits", [("Training", "Testing"), ("train", "test", "extra"), ("train", "val", "pictures")])
def test_nor_are_they_in_other_letters_or_beside_others(splits: tuple[str, ...], tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", pictures(*(f"{split}/1.png" for split in splits)))
    with pytest.raises(ConfigError, match="are splits, and no classes"):
        ingested(tmp_path / "photos")


@pytest.mark.parametrize("added", ["flat", "described"])
def test_what_has_other_labels_is_not_added_to_classes(added: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", pictures("cat/1.png", "dog/1.png"))
    place, _ = ingested(tmp_path / "photos")
    more = described(list(zip(STYLEGAN, (7, 0, 7), strict=True)), False, tmp_path)
    if added == "flat":
        (more / "dataset.json").unlink()
        more = more / "00000"
    with pytest.raises(ConfigError, match="has the classes cat, dog, and what is to be added says none, or numbers"):
        ingest(Folder(uri=str(more)), SMALL, place, Options(append=True))


STYLEGAN = ["00000/img00000000.png", "00000/img00000001.png", "00001/img00001000.png"]


def described(labels_of: object, zipped: bool, folder: Path, below: str = "") -> Path:
    files = {f"{below}{name}": content for name, content in pictures(*STYLEGAN).items()}
    files |= {f"{below}dataset.json": json.dumps({"labels": labels_of}).encode()}
    write_zip(folder / "source", files) if zipped else write_folder(folder / "source", files)
    return folder / "source"


@pytest.mark.parametrize("zipped", [False, True])
def test_stylegans_description_says_the_labels(zipped: bool, tmp_path: Path) -> None:
    source = described(list(zip(STYLEGAN, (7, 0, 7), strict=True)), zipped, tmp_path)
    assert named_labels(source) == dict(zip(STYLEGAN, (7, 0, 7), strict=True))
    assert read_manifest(Location.of(f"{source}-shards")).skipped == {}, "the description is no picture"


def test_so_it_does_in_a_folder_inside(tmp_path: Path) -> None:
    source = described(list(zip(STYLEGAN, (1, 2, 3), strict=True)), False, tmp_path, "train/")
    assert named_labels(source, inside="train") == {f"train/{name}": at for at, name in enumerate(STYLEGAN, 1)}


def test_a_description_further_down_is_not_passed_over(tmp_path: Path) -> None:
    source = described(None, True, tmp_path, "set/")
    with pytest.raises(
        ConfigError, match=r"dataset\.json in .* lies in set; choose that with data\.source\.inside=set"
    ):
        ingested(source)


def test_without_labels_in_it_numbered_folders_are_no_classes(tmp_path: Path) -> None:
    assert set(named_labels(described(None, True, tmp_path)).values()) == {-1}


NEITHER = "gives labels that are neither whole numbers nor lists of 0 and 1, all of one length"


@pytest.mark.parametrize(
    ("labels_of", "message"),
    [
        ([[STYLEGAN[0], 1]], f"gives 2 pictures no label, such as {STYLEGAN[1]}"),
        ([[name, [0, 2]] for name in STYLEGAN], NEITHER),
        ([[name, [0, 1][: at + 1]] for at, name in enumerate(STYLEGAN)], NEITHER),
        ([[name, [0.5, 1]] for name in STYLEGAN], NEITHER),
        ([[name, []] for name in STYLEGAN], NEITHER),
        ([[STYLEGAN[0], 1], *([name, [0, 1]] for name in STYLEGAN[1:])], NEITHER),
        ([[name, -1] for name in STYLEGAN], NEITHER),
        ("cats", "is none of StyleGAN's"),
    ],
)
def test_another_description_is_refused(labels_of: object, message: str, tmp_path: Path) -> None:
    source = described(labels_of, True, tmp_path)
    with pytest.raises(ConfigError, match=rf"dataset\.json in .*source {message}.*data\.source\.classes=false"):
        ingested(source)
    assert set(named_labels(source, classes=False).values()) == {-1}


@pytest.mark.parametrize("kind", ["JPEG", "BMP"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_that_is_not_what_was_packed_is_counted_and_named(kind: str, compression: int, tmp_path: Path) -> None:
    files = {f"{at}.{kind.lower()}": encoded(kind) for at in range(4)}
    write_zip(tmp_path / "photos.zip", files, compression)
    content = bytearray((tmp_path / "photos.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "photos.zip") as archive:
        member = archive.infolist()[2]
        content[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 1
    (tmp_path / "photos.zip").write_bytes(content)
    place, manifest = ingested(tmp_path / "photos.zip")
    assert (manifest.rows, manifest.skipped) == (3, {"damaged": 1})
    assert f"2.{kind.lower()}" in (place / "skipped-00001.json").read().decode()


class Stream(io.RawIOBase):
    """A file that nobody can go back in, such as a pipe."""

    def __init__(self) -> None:
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int:  # type: ignore[override]
        self.written += bytes(content)
        return len(content)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_that_was_written_as_a_stream_is_read(compression: int, tmp_path: Path) -> None:
    """Sizes and checksums stand behind each member there."""
    files = pictures(*(f"{at}.png" for at in range(3)))
    stream = Stream()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    (tmp_path / "streamed.zip").write_bytes(stream.written)
    assert struct.unpack_from("<H", (tmp_path / "streamed.zip").read_bytes(), 6)[0] & 8
    source = Folder(uri=str(tmp_path / "streamed.zip"))
    assert {sample.key: sample.pictures[0] for sample in source.read(source.index())} == files


def test_folders_that_links_lead_to_again_are_read_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", pictures("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"))
    (tmp_path / "photos" / "cat" / "up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos" / "dog")
    (tmp_path / "photos" / "itself").symlink_to(tmp_path / "photos" / "itself")
    write_folder(tmp_path / "elsewhere", pictures("1.png"))
    (tmp_path / "photos" / "fish").symlink_to(tmp_path / "elsewhere")
    _, manifest = ingested(tmp_path / "photos")
    assert (manifest.rows, manifest.classes, manifest.skipped) == (5, ("cat", "dog", "fish"), {"dead link": 1})


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", pictures("1.png"))
    (tmp_path / "photos" / os.fsdecode(b"\xff\xfe.png")).write_bytes(encoded())
    with pytest.raises(ConfigError, match=r"udcff.*\.png' in .*photos: its name is no UTF-8; rename it"):
        ingested(tmp_path / "photos")


def test_dead_links_are_counted_and_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", pictures(*(f"{at}.png" for at in range(8))))
    (tmp_path / "photos" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    place, manifest = ingested(tmp_path / "photos")
    assert (manifest.rows, manifest.skipped) == (8, {"dead link": 1})
    assert "gone.png" in (place / "skipped-00001.json").read().decode()
