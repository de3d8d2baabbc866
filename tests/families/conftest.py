"""The folder of a family's pipeline, which every file that compares with diffusers loads."""

import pytest


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    """Return the folder that diffusers writes; `pipe` is the pipeline of the test file."""
    path = tmp_path_factory.mktemp("model")
    pipe.save_pretrained(path)
    return path
