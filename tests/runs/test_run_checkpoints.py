"""Checkpoints in a run's folder: whole ones are found by looking, damaged ones are not gone on from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.storage.location import Location
from service import open_checkpoint
from service.artifacts import checkpoints, run_checkpoints
from service.artifacts.checkpoints import CheckpointError, State, UnreadableCheckpointError
from service.configuration.recipe import load
from service.configuration.tree import dump

RUN = load("digits")
IDENTITY = {"recipe": RUN.recipe_hash, "data set": "1"}


def saved(folder: Path, step: int) -> Path:
    weights = {"generator.weight": torch.full((50,), float(step))}
    state = State(step, weights, {}, {"rows": torch.zeros(3)}, {}, IDENTITY, dump(RUN))
    checkpoints.save(state, folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Location:
    """A run of three checkpoints."""
    place = Location.of(str(tmp_path / "run"))
    for step in (10, 20, 30):
        run_checkpoints.publish(saved(tmp_path / f"saved-{step}", step), place, step)
    return place


def newest(run: Location) -> tuple[int, list[str]]:
    said: list[str] = []
    state = run_checkpoints.newest(run, IDENTITY, said.append)
    return state.step if state else 0, said


def test_the_newest_is_found_whatever_else_is_noted(run: Location) -> None:
    (run / "checkpoint_manager_snapshot.json").write(b"{")
    assert newest(run) == (30, [])
    assert newest(run / "not there") == (0, [])


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    match how:
        case "truncated":
            file.write_bytes(content[: len(content) // 2])
        case "empty":
            file.write_bytes(b"")
        case "flipped":
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "missing":
            file.unlink()


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "missing"])
@pytest.mark.parametrize("name", ["networks.safetensors", "optimizers.pt", "rows.safetensors"])
def test_a_damaged_one_is_told_and_the_one_before_taken(run: Location, name: str, how: str) -> None:
    damage(Path(run.path) / "step-00000030" / name, how)
    step, said = newest(run)
    assert step == 20
    (line,) = said
    assert "step-00000030 is damaged" in line and name in line and "\n" not in line
    assert line.endswith("; going back to that of step 20")
    assert newest(run) == (20, []), "it is set aside"
    assert open_checkpoint(run.path).step == 20


@pytest.mark.parametrize("how", ["truncated", "empty"])
def test_a_damaged_marker_is_damage(run: Location, how: str) -> None:
    damage(Path(run.path) / "step-00000030" / "state.json", how)
    assert newest(run)[0] == 20


def test_where_all_are_damaged_nothing_is_set_aside(run: Location) -> None:
    for step in (10, 20, 30):
        damage(Path(run.path) / f"step-{step:08}" / "networks.safetensors", "truncated")
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* is whole: .*step-00000030 is damaged") as raised:
        newest(run)
    assert "going back" not in str(raised.value)
    assert run_checkpoints.steps(run) == [10, 20, 30]


@pytest.mark.parametrize("error", [RuntimeError("unable to mmap: Cannot allocate memory"), OSError("I/O error")])
def test_one_that_agrees_with_its_hashes_is_not_damaged(
    run: Location, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: Path) -> None:
        raise error

    monkeypatch.setattr(checkpoints, "load_file", fail)
    with pytest.raises(UnreadableCheckpointError, match="is whole, but this machine cannot read it"):
        newest(run)
    assert run_checkpoints.steps(run) == [10, 20, 30]


def test_one_that_cannot_be_opened_is_not_damaged(run: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise PermissionError("not now")

    monkeypatch.setattr(checkpoints, "_described", fail)
    with pytest.raises(UnreadableCheckpointError, match="cannot be read: not now"):
        newest(run)


def test_one_without_its_marker_is_not_there(run: Location) -> None:
    """As a process leaves it that dies while it copies."""
    (run / "step-00000030" / "state.json").delete()
    assert newest(run) == (20, [])
    assert run_checkpoints.steps(run) == [10, 20]


def noted(method: Callable[[Location, Any], None], names: list[str]) -> Callable[[Location, Any], None]:
    def noting(place: Location, given: Any) -> None:
        names.append(place.name)
        method(place, given)

    return noting


def test_the_marker_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for method in ("_copy_file", "write"):
        monkeypatch.setattr(Location, method, noted(getattr(Location, method), order))
    run_checkpoints.publish(saved(tmp_path / "saved", 10), Location.of(str(tmp_path / "run")), 10, unmeasured=True)
    assert len(order) == 6 and order[-1] == "state.json"


def test_another_recipe_is_no_damage(run: Location) -> None:
    with pytest.raises(CheckpointError, match="another data set"):
        run_checkpoints.newest(run, {**IDENTITY, "data set": "2"}, print)
    assert run_checkpoints.steps(run) == [10, 20, 30]


def test_one_of_a_version_that_wrote_no_hashes_is_read(run: Location) -> None:
    marker = Path(run.path) / "step-00000030" / "state.json"
    described = json.loads(marker.read_text())
    del described["files"]
    marker.write_text(json.dumps(described))
    assert newest(run) == (30, [])
    damage(marker.with_name("networks.safetensors"), "truncated")
    assert newest(run)[0] == 20


def test_the_newest_are_kept_and_those_to_be_measured(tmp_path: Path, run: Location) -> None:
    run_checkpoints.publish(saved(tmp_path / "saved-5", 5), run, 5, unmeasured=True)
    run_checkpoints.prune(run, 2)
    assert run_checkpoints.steps(run) == [5, 20, 30]
    run_checkpoints.measured(run, 5)
    run_checkpoints.prune(run, 2)
    assert run_checkpoints.steps(run) == [20, 30]
    assert sorted(path.name for path in Path(run.path).iterdir()) == ["step-00000020", "step-00000030"]
