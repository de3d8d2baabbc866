"""The packages of the core show their public names, and only those."""

from __future__ import annotations

import importlib
import re

import numpy as np
import pytest

from ldmref import samplers
from ldmref.samplers.config import SchedulerConfig
from ldmref.testing import Mixture, cases, three_modes


@pytest.mark.parametrize("package", ["samplers", "backends", "check", "testing"])
def test_completion_offers_the_public_names(package):
    module = importlib.import_module(f"ldmref.{package}")
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    assert not hasattr(module, "no_such_name")


def test_reprs_are_one_short_line():
    schedule = samplers.make_schedule(SchedulerConfig(), samplers.get_sampler("ddim"), None, 4)
    sigmas = schedule.sigmas
    state = next(samplers.sample(three_modes().denoise, np.ones((2, 2)), sigmas, samplers.heun()))
    texts = [repr(x) for x in (schedule, state, three_modes(), samplers.SAMPLERS["heun"])]
    texts.append(repr(next(cases())))
    assert repr(Mixture(np.ones(1), np.zeros((1, 3)), np.ones(1))) == (
        "<Mixture of 1 Gaussians in 3 dimensions>"
    )
    for text in texts:
        assert text[0] == "<" and len(text) < 100 and "array" not in text and "\n" not in text, text


def test_the_changelog_counts_samplers_and_guidances(pytestconfig):
    """The numbers of the newest section of CHANGELOG.md are those of the tables."""
    text = (pytestconfig.rootpath / "CHANGELOG.md").read_text("utf-8")
    newest = re.split(r"(?m)^## ", text)[1]
    counts = re.search(r"(\d+) samplers and (\d+) kinds of guidance", newest)
    found = len(samplers.SAMPLERS), len(samplers.GUIDANCES)
    assert counts and tuple(map(int, counts.groups())) == found
    assert set(re.findall(r"(\d+) samplers as pure steps", newest)) <= {counts[1]}
