import re

import pytest

from docs.__main__ import PAGE, page
from docs.seed_table import Row, status
from pipelines.components import ConfigError
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def written() -> str:
    """The page as it would be written now."""
    return page()


def test_the_page_of_parts_is_what_the_code_says(written: str) -> None:
    assert PAGE.read_text() == written, "run python -m docs"


def test_every_part_is_tested_and_every_recipe_named(written: str) -> None:
    for line in written.splitlines():
        if line.startswith("| `") and line.count("|") == 5:
            assert not line.endswith("| - |"), line


def test_nothing_that_the_seeds_name_is_missing(written: str) -> None:
    rows = [line for line in written.splitlines() if re.search(r"`(\w+/)?test_\w+\.py`: ", line)]
    assert len(rows) > 80
    for line in rows:
        assert line.endswith("| works |"), line


def test_a_row_whose_test_is_gone_says_so() -> None:
    row = Row("nothing", "digits", "nobody", "test_docs.py::test_that_is_not_there")
    assert status(row, ROOT, __file__) == "no test test_that_is_not_there"
    with pytest.raises(ConfigError):
        status(row._replace(asked="digits objective=none"), ROOT, __file__)
