"""Several labels a picture: read from CelebA's list, CSV and StyleGAN's description, or refused; and never guessed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pipelines.components import ConfigError
from pipelines.data.ingest import ingest
from pipelines.data.inspection import table
from pipelines.data.plan import Options
from pipelines.data.shards import NO_LABEL, Labels, encode, labels, read_manifest, rows_of, schema
from pipelines.data.sources.folder import Folder
from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from tests.data.test_folders import SMALL, ingested, named_labels, pictures
from tests.made_data import write_folder, write_zip

CELEBA = "3\nBald Smiling Young\n1.jpg -1  1  1\n2.jpg -1 -1  1\n3.jpg  1 -1 -1\n"
CSV = "image_id,Bald,Smiling,Young\n1.jpg,0,1,1\n2.jpg,0,0,1\n3.jpg,1,0,0\n"
EXPECTED = {"1.jpg": [0, 1, 1], "2.jpg": [0, 0, 1], "3.jpg": [1, 0, 0]}
NAMES = ("Bald", "Smiling", "Young")
PHOTOS = pictures(*EXPECTED)


@pytest.mark.parametrize("text", [CELEBA, CSV, CSV.replace(",0", ", -1"), "\ufeff" + CSV, CSV + "4.jpg,0,0,0\n"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_says_the_attributes(text: str, zipped: bool, tmp_path: Path) -> None:
    """Beside the pictures or among them, of all of them and of more."""
    source = tmp_path / "photos"
    write_zip(source, PHOTOS) if zipped else write_folder(source, PHOTOS)
    file = tmp_path / "list_attr_celeba.txt" if zipped else source / "list_attr_celeba.txt"
    file.write_text(text)
    assert named_labels(source, attributes=str(file)) == EXPECTED
    manifest = read_manifest(Location.of(f"{source}-shards"))
    assert (manifest.several, manifest.classes, manifest.skipped) == (True, NAMES, {})
    assert manifest.labels == Labels(rows=3, highest=1)


def test_they_go_before_what_folders_are_called(tmp_path: Path) -> None:
    """And are looked up by the picture's place below the folder that is ingested."""
    write_folder(tmp_path / "photos", {f"all/{part}/{name}": PHOTOS[name] for part in "ab" for name in PHOTOS})
    file = tmp_path / "attributes.csv"
    file.write_text(CSV.splitlines()[0] + "".join(f"\n{part}/{line}" for part in "ab" for line in CSV.splitlines()[1:]))
    found = named_labels(tmp_path / "photos", inside="all", attributes=str(file))
    assert found == {f"all/{part}/{name}": values for part in "ab" for name, values in EXPECTED.items()}
    with pytest.raises(
        ConfigError, match=r"nothing of 6 pictures, such as all/a/1.jpg; it names a/1.jpg, .*inside=all"
    ):
        Folder(uri=str(tmp_path / "photos"), attributes=str(file)).index()


BAD = {
    "nowhere": (None, "nowhere.csv cannot be read"),
    "empty": ("", "names no attributes in its first line"),
    "no commas": ("image\n1.jpg\n", "names no attributes in its first line"),
    "twice": ("image,a,a\n", "names no attributes in its first line, or one of them twice"),
    "other values": ("image,a,b\n1.jpg,0,2\n", "has the value '2' in line 2; attributes are 1, or 0 or -1"),
    "too few": ("2\na b\n1.jpg 1\n", "has 1 values in line 3, for 2 attributes"),
    "a picture twice": ("image,a\n1.jpg,1\n1.jpg,0\n", "has 1.jpg twice, the second time in line 3"),
    "a picture left out": ("image,a\n1.jpg,1\n2.jpg,0\n", "of 1 pictures, such as 3.jpg; it names 1.jpg, 2.jpg$"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_so_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    text, message = BAD[kind]
    write_folder(tmp_path / "photos", PHOTOS)
    file = tmp_path / ("attributes.csv" if text is not None else "nowhere.csv")
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        ingested(tmp_path / "photos", attributes=str(file))
    assert "\n" not in str(caught.value) and "data.source.attributes: " in str(caught.value)


@pytest.mark.parametrize("zipped", [False, True])
def test_stylegans_description_may_give_several_to_each(zipped: bool, tmp_path: Path) -> None:
    described = {"labels": [[name, list(map(float, values))] for name, values in EXPECTED.items()]}
    files = {**PHOTOS, "dataset.json": json.dumps(described).encode()}
    source = tmp_path / "photos"
    write_zip(source, files) if zipped else write_folder(source, files)
    assert named_labels(source) == EXPECTED
    assert read_manifest(Location.of(f"{source}-shards")).classes == ("0", "1", "2")


def told(tmp_path: Path, name: str, text: str = CSV, **more: Any) -> Folder:
    write_folder(tmp_path / name, {file: PHOTOS[file] for file in EXPECTED} | more)
    (tmp_path / f"{name}.csv").write_text(text)
    return Folder(uri=str(tmp_path / name), attributes=str(tmp_path / f"{name}.csv"))


def test_a_data_set_of_attributes_grows_by_others_that_have_the_same(tmp_path: Path) -> None:
    place, more = Location.of(str(tmp_path / "shards")), Options(append=True)
    ingest(told(tmp_path, "first"), SMALL, place)
    added = pictures("4.jpg")
    manifest = ingest(told(tmp_path, "second", CSV + "4.jpg,1,1,1\n", **added), SMALL, place, more)
    assert (manifest.version, manifest.rows, manifest.labels) == (2, 4, Labels(rows=4, highest=1))
    loader = open_loader(place, SMALL, 4, 0)
    assert sorted(loader.some(4).labels.tolist()) == sorted([*EXPECTED.values(), [1, 1, 1]])
    assert loader.batch(0).labels.shape == (4, 3)
    loader.close()
    other = told(tmp_path, "third", CSV.replace("Bald", "Hat") + "5.jpg,1,1,1\n", **pictures("5.jpg"))
    with pytest.raises(ConfigError, match=r"has the attributes Bald, Smiling, Young, and .* has Hat, Smiling, Young"):
        ingest(other, SMALL, place, more)
    with pytest.raises(ConfigError, match=r"has the attributes Bald, Smiling, Young, and .* has none; ingest all"):
        ingest(Folder(uri=other.uri), SMALL, place, more)
    plain = Location.of(str(tmp_path / "plain"))
    ingest(Folder(uri=other.uri), SMALL, plain)
    with pytest.raises(ConfigError, match=r"has no attributes, and .* has Bald, Smiling, Young"):
        ingest(told(tmp_path, "fourth", CSV + "6.jpg,1,1,1\n", **pictures("6.jpg")), SMALL, plain, more)


def test_other_attributes_of_the_same_pictures_are_another_data_set(tmp_path: Path) -> None:
    source = told(tmp_path, "first")
    before = source.fingerprint()
    assert before != Folder(uri=source.uri).fingerprint()
    (tmp_path / "first.csv").write_text(CSV + "9.jpg,0,0,0\n")
    assert source.fingerprint() != before


def test_inspect_names_them(tmp_path: Path) -> None:
    place = Location.of(str(tmp_path / "shards"))
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table(ingest(told(tmp_path, "first"), SMALL, place), place))
    assert all(text in shown.get() for text in ("attributes", "Bald, Smiling, Young", "label (fixed_size_list"))


def test_a_sample_without_them_is_told_apart_from_one_that_has_none_of_them() -> None:
    images = [np.zeros((4, 4, 1), np.uint8)] * 3
    encoded = encode({"image": images}, [[0, 0], None, [1, 0]], ["a", "b", "c"], 3)
    start, stop = encoded.offsets
    rows = rows_of(encoded.content[start:stop], schema(["image"], (4, 4, 1), 2))
    assert labels(rows).tolist() == [[0, 0], [NO_LABEL] * 2, [1, 0]]
