"""A kit, made once per process; the networks of tests/locate that ldmref does not know."""

import sys
from pathlib import Path

import pytest

from ldmref.passport import make_kit

sys.path.append(str(Path(__file__).parents[1] / "locate"))


@pytest.fixture(scope="session")
def kit(tmp_path_factory):
    """Return the kit of the smallest model with a transformer."""
    return make_kit("flux-dev", tmp_path_factory.mktemp("kits") / "flux-dev")
