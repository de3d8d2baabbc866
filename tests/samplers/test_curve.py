"""Points on a path: the scale in which a network reads its input, and the curves themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ldmref
from ldmref.explore import record_run
from ldmref.samplers.curve import path_point
from ldmref.samplers.denoiser import in_own_scale
from ldmref.samplers.path import FLOW, VE

RATIOS = st.floats(1e-4, 1e4)
KINDS = st.sampled_from(["eps", "v", "x0", "flow"])
STATES = st.sampled_from([VE, FLOW])


@given(RATIOS, KINDS, STATES)
def test_a_point_is_the_mixture_that_the_network_reads(ratio, kind, path):
    """x0 alone and noise alone, taken to the network's scale, are alpha and sigma."""
    sigma = path.level(ratio)
    point = path_point(kind, sigma, path)
    alpha, _ = in_own_scale(kind, path.noised(1.0, 0.0, sigma), sigma, path)
    noise, _ = in_own_scale(kind, path.noised(0.0, 1.0, sigma), sigma, path)
    assert point.signal == pytest.approx(alpha, rel=1e-9)
    assert point.noise == pytest.approx(noise, rel=1e-9)
    assert point.noise / point.signal == pytest.approx(ratio, rel=1e-8)


@given(RATIOS, KINDS, STATES)
def test_the_points_of_a_curve_lie_on_it(ratio, kind, path):
    own = path_point(kind, path.level(ratio), path)
    if own.curve == "flow":
        assert own.signal + own.noise == pytest.approx(1.0)
    else:
        assert own.curve == "preserving" and math.hypot(*own[1:]) == pytest.approx(1.0)
    exploding = path_point(kind, VE.level(ratio), VE, asked=True)
    assert exploding == ("exploding", 1.0, ratio)


def test_the_ends():
    assert path_point("flow", 1.0, FLOW) == ("flow", 0.0, 1.0)
    assert path_point("flow", 0.0, FLOW) == ("flow", 1.0, 0.0)
    assert path_point("eps", 0.0) == ("preserving", 1.0, 0.0)


def test_variance_preserving_points_are_the_roots_of_alpha_bar():
    model = ldmref.random_model("tiny", backend="numpy")
    meta = record_run(model, prompt="a cat", seed=1, steps=4).meta
    alpha_bar = np.array(meta["alpha_bar"])
    np.testing.assert_allclose(meta["levels"]["signal"], np.sqrt(alpha_bar), rtol=1e-12)
    np.testing.assert_allclose(meta["levels"]["noise"], np.sqrt(1 - alpha_bar), rtol=1e-9)


@pytest.mark.parametrize(
    "name,options,curve",
    [
        ("tiny", {}, "preserving"),
        ("tiny", {"noise_path": "flow"}, "flow"),
        ("tiny", {"noise_path": "ve"}, "exploding"),
        ("sd3-tiny", {}, "flow"),
    ],
)
def test_a_record_names_its_curve(name, options, curve):
    model = ldmref.random_model(name, backend="numpy")
    record = record_run(model, prompt="a cat", seed=1, steps=3, **options)
    assert record.meta["levels"]["curve"] == curve
    assert [len(record.meta["levels"][key]) for key in ("signal", "noise")] == [4, 4]
