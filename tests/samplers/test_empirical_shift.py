"""FLUX.2's shift, which depends on the number of image tokens and on that of steps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ldmref.models import preset
from ldmref.models.fields_read import list_fields_read
from ldmref.samplers import SAMPLERS, SchedulerConfig, make_schedule
from ldmref.samplers.flow_spacings import empirical_mu, shift_factor, shift_levels

FLUX2 = SchedulerConfig(
    prediction_type="flow",
    sampler="euler",
    spacing="flow",
    final_sigma="zero",
    dynamic_shift=True,
    shift_rule="empirical",
)


def levels(config, steps, tokens):
    return make_schedule(config, SAMPLERS["euler"], None, steps, tokens=tokens).sigmas


def test_numbers_of_the_makers():
    """Sigmas of 4 steps at 4096 tokens, and mu on both sides of its jump."""
    np.testing.assert_allclose(levels(FLUX2, 4, 4096)[1:4], [0.96738, 0.90814, 0.76720], atol=5e-6)
    wanted = {
        1024: (2.0307, 1.8592, 1.7020),
        4096: (2.2912, 2.1514, 2.0234),
        4300: (2.3085, 2.1709, 2.0447),
        4301: (1.1847,) * 3,
        16384: (3.23,) * 3,
    }
    for tokens, mus in wanted.items():
        found = [empirical_mu(tokens, steps) for steps in (4, 28, 50)]
        np.testing.assert_allclose(found, mus, atol=5e-5)


def test_mu_is_that_of_diffusers():
    klein = pytest.importorskip("diffusers.pipelines.flux2.pipeline_flux2_klein")
    for tokens in (1, 256, 4096, 4300, 4301, 16384):
        for steps in (1, 4, 10, 50, 200, 999):
            theirs = klein.compute_empirical_mu(tokens, steps)
            assert empirical_mu(tokens, steps) == pytest.approx(theirs, abs=1e-12)


def test_the_schedule_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    for steps, tokens in ((4, 4096), (28, 1000), (5, 5000)):
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        evenly = np.linspace(1.0, 1.0 / steps, steps)
        scheduler.set_timesteps(sigmas=evenly, mu=empirical_mu(tokens, steps))
        np.testing.assert_allclose(levels(FLUX2, steps, tokens), scheduler.sigmas, atol=1e-6)


def test_other_levels_count_as_steps():
    own = shift_levels(FLUX2, np.asarray([1.0, 0.5]), 1024)
    k = math.exp(empirical_mu(1024, 2))
    np.testing.assert_allclose(own, [1.0, 0.5 * k / (1.0 + 0.5 * (k - 1.0))])
    assert shift_factor(FLUX2, 1024, 2) == pytest.approx(k)


def test_other_rules_depend_on_no_steps():
    line = replace(FLUX2, shift_rule="linear")
    assert shift_factor(line, 4096, 4) == shift_factor(line, 4096, 50) == math.exp(1.15)
    constant = replace(FLUX2, dynamic_shift=False, shift=3.0)
    assert shift_factor(constant, 4096, 4) == 3.0


def test_only_what_the_rule_reads_is_listed():
    """A line has two points, the empirical rule has none, a constant neither."""
    model = preset("flux-tiny")
    found = {}
    for name, changes in {
        "line": {},
        "empirical": {"shift_rule": "empirical"},
        "constant": {"dynamic_shift": False},
    }.items():
        scheduler = replace(model.scheduler, **changes)
        found[name] = list_fields_read(replace(model, scheduler=scheduler))["scheduler"]
    assert {"shift_rule", "base_shift"} <= found["line"].keys() and "shift" not in found["line"]
    assert "shift_rule" in found["empirical"] and "base_shift" not in found["empirical"]
    assert "shift" in found["constant"] and "shift_rule" not in found["constant"]


def test_mu_may_be_constant():
    """As in Krea 2 Turbo: its second and last sigma of 8 steps, at every size."""
    turbo = replace(FLUX2, shift_rule="constant", max_shift=1.15)
    for tokens in (0, 256, 4096):
        found = levels(turbo, 8, tokens)
        np.testing.assert_allclose(found[[1, 7]], [0.9567237271222464, 0.3109010566906254])
    model = preset("flux-tiny")
    read = list_fields_read(replace(model, scheduler=turbo))["scheduler"]
    assert "max_shift" in read and not {"base_shift", "shift"} & read.keys()
