from __future__ import annotations

import pytest

import ldmref


@pytest.fixture(scope="session")
def tiny():
    return ldmref.random_model("tiny", backend="numpy")


@pytest.fixture(scope="session")
def tiny64():
    """The same model in float64."""
    return ldmref.random_model("tiny", backend="numpy", dtype="float64")
