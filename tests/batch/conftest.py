"""The model and the requests that the tests of batches share."""

from __future__ import annotations

import pytest
from batches import make_rows, save_tiny_model, write_rows

import ldmref


@pytest.fixture(scope="session")
def tiny():
    return ldmref.random_model("tiny", backend="numpy")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def requests(tmp_path):
    """A file of 20 rows, two of which are wrong."""
    return write_rows(tmp_path / "requests.jsonl", make_rows(20))
