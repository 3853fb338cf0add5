"""How many samples have a label is known before anything trains, and a source is looked at once."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.inspection import table
from pipelines.data.plan import Options, Plan
from pipelines.data.shards import Labels, Manifest, count_labels, read_manifest
from pipelines.data.sources import Source
from pipelines.data.sources.folder import Folder
from pipelines.data.sources.pairs import Pairs
from pipelines.data.sources.unpaired import Unpaired
from pipelines.storage.local_tree import files_below
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.runs.driver.datasets import folder_of
from service.train import main as train_main
from tests.conftest import called
from tests.made_data import encoded, pairs, write_folder

SMALL = Transform(size=16, channels=1, resample="bicubic")


@pytest.fixture
def partly(tmp_path: Path) -> tuple[Path, Location]:
    """Two classes, and at the end of the data set, in a block of its own, a picture of none."""
    source, place = tmp_path / "photos", Location.of(str(tmp_path / "shards"))
    write_folder(source, {f"{name}/{at}.png": encoded("PNG", (20, 20)) for name in "ab" for at in range(40)})
    write_folder(source, {"z.png": encoded("PNG", (20, 20))})
    ingest(Folder(uri=str(source)), SMALL, place, Options(shard_rows=27))
    return source, place


def of_before(place: Location) -> Manifest:
    """The data set, as an earlier version has written it: labels are there, and nobody counted them."""
    manifest = read_manifest(place)
    (place / manifest.name).write(manifest.model_dump_json(exclude={"labels"}).encode())
    assert read_manifest(place).labels is None
    return read_manifest(place)


def test_labels_are_counted_and_shown(partly: tuple[Path, Location], tmp_path: Path) -> None:
    source, place = partly
    manifest = read_manifest(place)
    assert manifest.labels == Labels(rows=80, highest=1)
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table(manifest, place))
    assert "0 to 1, of 80 of the images" in shown.get()
    write_folder(tmp_path / "more", {f"{name}/new.png": encoded() for name in "abc"})
    grown = ingest(Folder(uri=str(tmp_path / "more")), SMALL, place, Options(append=True))
    assert grown.labels == Labels(rows=83, highest=2)
    plain = ingest(Folder(uri=str(source), classes=False), SMALL, Location.of(str(tmp_path / "plain")))
    assert plain.labels == Labels()


def test_of_a_data_set_of_before_they_are_read(partly: tuple[Path, Location], tmp_path: Path) -> None:
    counted = read_manifest(partly[1])
    before = of_before(partly[1])
    assert before.hash == counted.hash
    assert count_labels(partly[1], before) == counted.labels
    plain = Location.of(str(tmp_path / "plain"))
    ingest(Folder(uri=str(partly[0]), classes=False), SMALL, plain)
    assert count_labels(plain, of_before(plain)) == Labels()
    write_folder(tmp_path / "more", {f"{name}/new.png": encoded() for name in "abc"})
    grown = ingest(Folder(uri=str(tmp_path / "more")), SMALL, partly[1], Options(append=True))
    assert grown.labels is None and count_labels(partly[1], grown) == Labels(rows=83, highest=2)


@pytest.mark.parametrize("before", [False, True])
def test_a_sample_without_a_label_is_found_before_ray_starts(
    before: bool, partly: tuple[Path, Location], tmp_path: Path
) -> None:
    if before:
        of_before(partly[1])
    words = ["digits", "task.classes=2", f"data.shards={partly[1]}", f"storage={tmp_path}"]
    code, _, err = called(train_main, *words, "task=conditional")
    assert (code, err.count("\n")) == (2, 1)
    assert f"task conditional: wants labels 0 to 1, and {partly[1]} has 1 of 81 samples without a label" in err


def test_a_label_that_the_task_does_not_know_is_named(digits: Location, tmp_path: Path) -> None:
    words = ["digits", "task=conditional", "task.classes=9", f"data.shards={digits}", f"storage={tmp_path}"]
    code, _, err = called(train_main, *words)
    assert (code, err.count("\n")) == (2, 1)
    assert f"wants labels 0 to 8, and {digits} has label 9" in err


def test_an_ingest_of_before_there_were_attributes_is_still_the_same(tmp_path: Path) -> None:
    """So that it goes on where it was, or finds its work done."""
    source = Folder(uri=str(tmp_path))
    write_folder(tmp_path, {"1.png": encoded()})
    options = {"uri": str(tmp_path), "inside": "", "classes": True}
    described = ["Folder", options, source.fingerprint(), SMALL.model_dump(), "decoded", None]
    expected = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    plan = Plan(source, SMALL, Location.of(str(tmp_path)), Options(), source.fingerprint(), 1)
    assert plan.identity == expected
    told = source.model_copy(update={"attributes": str(tmp_path / "1.png")})
    assert replace(plan, source=told).identity != expected


def sources(tmp_path: Path) -> list[Source]:
    write_folder(tmp_path / "tree", {f"{part}/{at}.png": encoded() for part in ("trainA", "trainB") for at in range(3)})
    (tmp_path / "tree" / "dead.png").symlink_to(tmp_path / "nowhere")
    tree = str(tmp_path / "tree")
    return [Folder(uri=tree), Unpaired(uri=tree, domain="A"), pairs(tmp_path / "pairs", 4)]


def test_an_ingest_walks_a_folder_once_and_once_more_to_see_that_it_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked = list[str]()

    def walk(folder: str) -> Iterator[tuple[str, os.stat_result | None]]:
        walked.append(folder)
        return files_below(folder)

    monkeypatch.setattr("pipelines.storage.location.files_below", walk)
    for number, source in enumerate(sources(tmp_path)):
        walked.clear()
        ingest(source, SMALL, Location.of(str(tmp_path / f"shards-{number}")), Options(skip_limit=1.0))
        assert walked == [source.model_dump()["uri"]] * 2


def test_a_survey_says_what_index_and_fingerprint_say(tmp_path: Path) -> None:
    two = Pairs(uri=str(tmp_path / "pairs"), other_uri=str(tmp_path / "pairs"))
    for source in [*sources(tmp_path), two]:
        survey = source.survey()
        assert survey.fingerprint == source.fingerprint()
        assert survey.index().equals(source.index())


def test_what_is_taken_of_a_folder_has_shards_of_its_own(tmp_path: Path) -> None:
    """Of the same files, other options make other data sets."""
    write_folder(tmp_path / "photos", {f"{name}/{at}.png": encoded() for name in "ab" for at in range(2)})
    words = ["data.source=folder", f"data.source.uri={tmp_path / 'photos'}", f"storage={tmp_path}"]
    chosen = [[], ["data.source.inside=a"], ["data.source.inside=b"], ["data.source.classes=false"]]
    assert len({folder_of(load("digits", [*words, *more])) for more in chosen}) == len(chosen)
