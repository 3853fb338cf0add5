"""What several files of these tests train on."""

import pytest

from pipelines.storage.location import Location


@pytest.fixture(scope="session")
def data(digits: Location, digits_at_32: Location) -> dict[int, str]:
    """A data set's folder, by the size of its pictures."""
    return {16: digits.path, 32: digits_at_32.path}
