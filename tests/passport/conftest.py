"""A kit, made once per process; the networks of tests/locate that ldmref does not know."""

import sys
from pathlib import Path

import pytest

from ldmref.passport import make, make_kit

sys.path.append(str(Path(__file__).parents[1] / "locate"))


@pytest.fixture(scope="session")
def kit(tmp_path_factory):
    """Return the kit of the smallest model with a transformer."""
    return make_kit("flux-dev", tmp_path_factory.mktemp("kits") / "flux-dev")


@pytest.fixture(scope="session")
def make_small_kit(tmp_path_factory):
    """Return a function that makes a kit without wrong dumps, which take long to find."""

    def make_it(family):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(make, "wrong_dumps", lambda trace, original: ([], {"a": "not tried"}))
            return make_kit(family, tmp_path_factory.mktemp("kits") / family)

    return make_it


@pytest.fixture(scope="session")
def small_kit(make_small_kit):
    """Return a kit without wrong dumps."""
    return make_small_kit("z-image")
