"""Suites, made once per process."""

import pytest

from ldmref.cases import make_suite
from ldmref.cases.model import VALUE_PARTS


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Return a suite of three families: 60 layers, 7 networks."""
    folder = tmp_path_factory.mktemp("cases") / "small"
    return make_suite(folder, ("layers", "networks"), ("ldm-semantic", "taesd", "sdxl"))


@pytest.fixture(scope="session")
def values(tmp_path_factory):
    """Everything that runs on the host."""
    return make_suite(tmp_path_factory.mktemp("cases") / "values", VALUE_PARTS)
