from __future__ import annotations

import pytest

import ldmref


@pytest.fixture(scope="session")
def tiny():
    return ldmref.random_model("tiny", backend="numpy")
