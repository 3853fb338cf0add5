"""One at a time: leases that end, are abandoned, and are asked for by many."""

import errno
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.storage.lease import lease
from pipelines.storage.location import Location
from tests.patience import wait_until

PATIENCE = 0.3


def test_while_one_holds_it_nobody_else_does(tmp_path: Path) -> None:
    folder = Location.of(str(tmp_path))
    with lease(folder, PATIENCE) as first, lease(folder, PATIENCE) as second:
        assert first and not second
    with lease(folder, PATIENCE) as third:
        assert third


def test_an_exception_releases_it(tmp_path: Path) -> None:
    folder = Location.of(str(tmp_path))
    try:
        with lease(folder, PATIENCE):
            raise RuntimeError
    except RuntimeError:
        pass
    with lease(folder, patience_seconds=600) as mine:  # Which would wait for minutes for one that is only silent.
        assert mine


def test_what_a_killed_holder_has_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "lease-00000007").write_bytes(b"its last beat")
    with lease(Location.of(str(tmp_path)), PATIENCE) as mine:
        assert mine
        assert (tmp_path / "lease-00000008").exists()


def test_of_many_at_once_one_holds_it(tmp_path: Path) -> None:
    together, inside, most = threading.Barrier(8), [0], [0]
    done = threading.Barrier(8)

    def ask(_: int) -> bool:
        together.wait()
        with lease(Location.of(str(tmp_path)), PATIENCE) as mine:
            inside[0] += mine
            most[0] = max(most[0], inside[0])
            done.wait()
            inside[0] -= mine
            return mine

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(ask, range(8))) == 1
    assert most[0] == 1


@pytest.fixture(params=[errno.EPERM, errno.ENOTSUP])
def no_hard_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What FAT and many network shares answer."""

    def refuse(*_: str) -> None:
        raise OSError(request.param, "no such operation")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("no_hard_links")
def test_without_hard_links_one_of_many_holds_it_too(tmp_path: Path) -> None:
    test_of_many_at_once_one_holds_it(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"lease-00000001"}, "nothing else is left"
    with lease(Location.of(str(tmp_path)), PATIENCE) as mine:
        assert mine


@pytest.mark.usefixtures("no_hard_links")
def test_who_died_before_its_first_beat_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "lease-00000001").touch()
    with lease(Location.of(str(tmp_path)), PATIENCE) as mine:
        assert mine


def test_another_refusal_of_the_disk_is_not_taken_for_missing_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: str) -> None:
        raise OSError(errno.EACCES, "permission denied")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(PermissionError), lease(Location.of(str(tmp_path)), PATIENCE):
        pass
    assert list(tmp_path.iterdir()) == []


HOLDING = """
import sys
from pipelines.storage.lease import lease
from pipelines.storage.location import Location
from tests.patience import wait_until
with lease(Location.of(sys.argv[1]), 600.0) as mine:
    print("held" if mine else "refused", flush=True)
    sys.stdin.read()
"""


def test_a_holder_that_was_killed_on_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout and holder.stdout.readline() == "held\n"
    with lease(Location.of(str(tmp_path)), PATIENCE) as mine:  # Which takes its silence for death, as elsewhere.
        assert mine
    holder.kill()  # And leaves it for its parent to collect, as an init that does not would.
    (newest,) = tmp_path.glob("lease-*2")
    newest.unlink()
    with lease(Location.of(str(tmp_path)), patience_seconds=600) as mine:
        assert mine
    holder.communicate()


def test_a_holder_that_is_killed_while_it_is_waited_for_is_not_waited_for_longer(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout and holder.stdout.readline() == "held\n"
    began = time.monotonic()
    threading.Timer(1, holder.kill).start()
    with lease(Location.of(str(tmp_path)), patience_seconds=6000) as mine:
        assert mine
    assert time.monotonic() - began < 500, "that is less than a beat"
    holder.communicate()


def test_who_was_succeeded_hears_of_it(tmp_path: Path) -> None:
    lost = threading.Event()
    with lease(Location.of(str(tmp_path)), PATIENCE, lost.set) as mine:
        assert mine
        (tmp_path / "lease-00000002").write_bytes(b"another's beat")
        wait_until(lost.is_set, "it hears")
