"""Every command that the documentation prints works as printed, in the folder in which `make train` was run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from docs.gallery import command
from docs.gallery_data import beside_edges
from docs.gallery_entries import ENTRIES
from pipelines.data.images import Transform
from service.configuration.recipe import load
from tests.conftest import RAY_ENVIRONMENT, ROOT

SMALL = [
    "steps=4",
    "logging.samples_every=2",
    "network=mlp",
    "network.generator_widths=[16]",
    "network.critic_widths=[16]",
]


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a language; those without one show what needs data or a cluster of the reader's."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


SHELL = [*blocks("README.md", "sh"), *blocks("docs/models.md", "sh")]
PYTHON = [*blocks("README.md", "python"), *blocks("docs/python.md", "python")]


def runs(block: str) -> bool:
    """Whether a block trains, serves or exports: those take a minute."""
    return re.search(r"selfgan train (?!\S+ --help)|train\(|tune\.|models serve|selfgan export", block) is not None


def as_cases(several: list[str]) -> list[object]:
    return [
        pytest.param(block, id=block.strip().splitlines()[0][:60], marks=[pytest.mark.long] if runs(block) else [])
        for block in several
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `make train` was run, with less to train."""
    folder = tmp_path_factory.mktemp("home")
    (folder / ".venv").symlink_to(sys.prefix)
    done = shell(
        " ".join([".venv/bin/python", str(ROOT / "service" / "train.py"), *(f"'{word}'" for word in SMALL)]), folder
    )
    assert done.returncode == 0, done.stderr
    return folder


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **RAY_ENVIRONMENT, "HOME": str(folder)}
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "PYTHONPATH"):
        environment.pop(name, None)
    return subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_pages_have_blocks() -> None:
    assert len(SHELL) >= 5 and len(PYTHON) == 3


@pytest.mark.parametrize("block", as_cases(SHELL))
def test_a_shell_block_works(block: str, home: Path) -> None:
    done = shell(block, home)
    assert done.returncode == 0, done.stdout + done.stderr
    for picture in re.findall(r"[\w/]+\.png", block):
        assert Image.open(home / picture).size[0] >= 16


@pytest.mark.parametrize("block", as_cases(PYTHON))
def test_a_python_block_works(block: str, home: Path) -> None:
    (home / "block.py").write_text(block)
    done = shell(".venv/bin/python block.py", home)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_run_prints_in_the_end_works(home: Path) -> None:
    grid = "images.png"
    run = min((home / "runs").glob("digits-*"))  # The first: the pages' blocks train others.
    assert (run / "curves.png").exists() and (run / "samples.gif").exists()
    done = shell(f".venv/bin/selfgan generate --model models:/selfgan-digits/1 --out {grid}", home)
    assert done.returncode == 0 and (home / grid).exists(), done.stderr


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_command_of_the_gallery_resolves(entry: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, _, recipe, *words = command(entry).split()  # type: ignore[arg-type]
    run = load(recipe, words)
    sources = [run.data.source, *(domain.source for domain in run.data.domains)]
    for source in sources:  # Where the page says that the data are.
        assert Path(getattr(source, "uri", ROOT / "data")).absolute().is_relative_to(ROOT / "data")


def test_pictures_beside_their_edges_are_pairs() -> None:
    picture = Transform(size=64, channels=3)((ROOT / "docs" / "digits.png").read_bytes())
    assert beside_edges(picture).shape == (64, 128, 3)
