"""A kit, made once per process."""

import pytest

from ldmref.passport import make_kit


@pytest.fixture(scope="session")
def kit(tmp_path_factory):
    """Return the kit of the smallest model with a transformer."""
    return make_kit("flux-dev", tmp_path_factory.mktemp("kits") / "flux-dev")
