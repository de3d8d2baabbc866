"""The environments of a reader, made once."""

from __future__ import annotations

import environments
import pytest


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """`environment(everything)`: the folder of a virtual environment."""
    made = {}

    def get(everything):
        if everything not in made:
            folder = tmp_path_factory.mktemp("environments") / "venv"
            made[everything] = environments.make(folder, everything)
        return made[everything]

    return get
