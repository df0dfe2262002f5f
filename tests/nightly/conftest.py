"""Long campaigns: `pytest -m nightly tests/nightly`."""

import pytest


@pytest.fixture(scope="session")
def square_dataset(tmp_path_factory, write_small_dataset):
    """Square images, whose features can be computed once."""
    folder = tmp_path_factory.mktemp("data") / "square"
    write_small_dataset(folder, size=(32, 32))
    return folder
