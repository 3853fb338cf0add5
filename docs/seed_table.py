"""What the five seed documents name, how a run asks for it, and which test shows it.

A row's status is found out: the run must resolve, and the test be there.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import yaml
from safetensors.torch import save_file

from service.configuration.recipe import load
from service.models.vgg import Features


class Row(NamedTuple):
    """One thing that the seeds name.

    Attributes:
        asked: recipe and overrides, as on the command line.
        source: whose definition it is.
        test: ``file::function`` below tests/.
    """

    name: str
    asked: str
    source: str
    test: str


def read() -> dict[str, list[Row]]:
    """The rows by group."""
    groups = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    return {group: [Row(*row) for row in rows] for group, rows in groups.items()}


def status(row: Row, root: Path, stand_in: str) -> str:
    """What is there of it: ``works``, or what is missing.

    Args:
        root: of the repository.
        stand_in: a file with weights of VGG16's shapes, in place of FILE.
    """
    recipe, *overrides = (word.replace("FILE", stand_in) for word in shlex.split(row.asked))
    load(recipe, overrides)
    file, _, function = row.test.partition("::")
    return "works" if f"def {function}(" in (root / "tests" / file).read_text() else f"no test {function}"


def table(root: Path) -> list[str]:
    """The lines of the table."""
    lines = ["| | recipe and options | after | test | status |", "|---|---|---|---|---|"]
    with TemporaryDirectory() as folder:
        weights = Path(folder, "vgg.safetensors")
        save_file(Features().state_dict(), weights)
        for group, rows in read().items():
            lines.append(f"| **{group}** | | | | |")
            for row in rows:
                file, _, function = row.test.partition("::")
                test = f"`{file}`: {function.removeprefix('test_').replace('_', ' ')}"
                found = status(row, root, str(weights))
                lines.append(f"| {row.name} | `{row.asked}` | {row.source} | {test} | {found} |")
    return lines
