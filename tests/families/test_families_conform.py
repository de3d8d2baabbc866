"""Our families do what they declare, check by check, against diffusers' networks and pipelines."""

from __future__ import annotations

import pytest

from ldmref.testing import FAMILY_CHECKS, assert_family_conforms

pytest.importorskip("torch")
pytest.importorskip("diffusers")
import family_oracles


@pytest.fixture(scope="module")
def oracles(tmp_path_factory):
    """What each family is compared with, made at the first use."""
    made = {}

    def find(name):
        if name not in made:
            make = getattr(family_oracles, name.replace("-", "_"))
            made[name] = make(tmp_path_factory.mktemp(name))
        return made[name]

    return find


@pytest.mark.parametrize("family", ["sd3", "flux", "latent-diffusion"])
@pytest.mark.parametrize("check", FAMILY_CHECKS)
def test_our_families_conform(oracles, family, check):
    report = assert_family_conforms(family, only=[check], **oracles(family))
    if check != "padding":  # none of them declares a mask
        assert report[check].verdict == "holds", str(report)
