"""The model and the requests that the tests of batches share."""

from __future__ import annotations

import shutil

import pytest
from batches import make_rows, save_tiny_model, write_rows

from ldmref.batch import run_batch


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Return a model for the command line and for workers."""
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def requests(tmp_path):
    """Return a file of 20 rows, two of which are wrong."""
    return write_rows(tmp_path / "requests.jsonl", make_rows(20))


@pytest.fixture(scope="session")
def _whole(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_batch(tiny, write_rows(folder / "requests.jsonl", make_rows(20)), folder / "out")
    return folder / "out"


@pytest.fixture
def whole(_whole, tmp_path):
    """Return the folder of an uninterrupted batch of these rows."""
    return shutil.copytree(_whole, tmp_path / "whole")
