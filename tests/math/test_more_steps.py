"""docs/math/flow_sde.md: what stochastic flow samplers converge to, exactly and by sampling."""

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref import math as lm
from ldmref.testing.flow_chains import (
    LAWS,
    TwoModes,
    guarded_law,
    renoise_law,
    run_chain,
    sde_law,
    shifted_times,
)

PAGE = (Path(__file__).parents[2] / "docs/math/flow_sde.md").read_text("utf-8")


def cps(level):
    return renoise_law(lambda s, t: lm.cps_std(t, level))


def final_variance(level, n, variance, shift=1.0):
    return lm.flow_chain_moments(cps(level), shifted_times(n, shift), 0.3, variance)[1]


def rows_of(page):
    """The rows of the page's table of final variances: name -> [text of each number]."""
    table = page.split("<!-- the numbers of this table")[1].split("\n\n")[1]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {name: numbers for name, *numbers in cells}


def test_table_of_final_variances():
    rows = rows_of(PAGE)
    assert set(rows) == set(LAWS)
    for name, texts in rows.items():
        for n, text in zip((10, 50, 200, 1000), texts, strict=True):
            times = shifted_times(n, 3.0)
            mean, variance = lm.flow_chain_moments(LAWS[name](times), times, 1.5, 0.25)
            assert f"{variance:.4f}" == text, (name, n)
            assert mean == pytest.approx(1.5, abs=1e-10)


@given(st.floats(0.05, 1), st.floats(0.1, 0.9), st.floats(-3, 3), st.floats(-3, 3))
def test_step_of_a_fixed_share_is_a_langevin_step(level, s, x, u):
    """At s' = s: the drift is (1 - w) s^2 times the score -eps / s, the variance s^2 (1 - w^2)."""
    w = math.cos(level * math.pi / 2)
    mean, std = cps(level)(x, u, s, s)
    score = -(x + (1 - s) * u) / s
    assert mean == pytest.approx(x + (1 - w) * s * s * score, abs=1e-9)
    assert std**2 == pytest.approx(s * s * (1 - w * w), rel=1e-9)


@pytest.mark.parametrize(("level", "variance", "shift"), [(1, 0.25, 1), (0.7, 1, 1), (0.3, 4, 3)])
def test_variance_tends_to_that_of_the_power(level, variance, shift):
    """The error falls as n^(-2/3): extrapolated from n to 8 n, it is far below that of 1.02 k."""
    few, many = (final_variance(level, n, variance, shift) / variance for n in (1000, 8000))
    limit = many + (many - few) / 3
    k = lm.tempering_exponent(level)
    assert limit == pytest.approx(1 / k, abs=2e-3)
    for other in (1.02 * k, k / 1.02):
        assert abs(limit - 1 / other) > 5 * abs(limit - 1 / k)


def test_error_falls_as_the_steps_to_minus_two_thirds():
    gaps = [0.5 - final_variance(1.0, n, 1.0) for n in (1000, 8000, 64000)]
    gaps = [abs(gap) for gap in gaps]
    orders = [math.log2(a / b) / 3 for a, b in pairwise(gaps)]
    assert orders[-1] == pytest.approx(2 / 3, abs=0.03)


@pytest.mark.parametrize("level", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("s", [0.8, 0.5, 0.2])
def test_variance_at_each_level(level, s):
    w = math.cos(level * math.pi / 2)
    n = 4000
    times = [1 - i / n for i in range(round((1 - s) * n) + 1)]
    got = lm.flow_chain_moments(cps(level), times, 0.0, 0.25)[1]
    true = (1 - s) ** 2 * 0.25 + s * s
    assert got == pytest.approx(true * (1 + w) / (2 - (1 - w) * s * s / true), rel=2e-3)


@pytest.mark.parametrize("name", [n for n in LAWS if n not in ("CPS", "stochastic_sampling")])
def test_all_others_reach_the_variance_of_the_data(name):
    gaps = []
    for n in (500, 2000):
        times = shifted_times(n, 3.0)
        gaps.append(abs(lm.flow_chain_moments(LAWS[name](times), times, 1.5, 0.25)[1] - 0.25))
    assert gaps[1] < 0.45 * gaps[0] and gaps[1] < 0.003


def test_diffusion_of_wan_reaches_it_too():
    times = shifted_times(2000, 3.0)
    law = sde_law(lambda s: times[1] * s)
    assert lm.flow_chain_moments(law, times, 1.5, 0.25)[1] == pytest.approx(0.25, abs=0.003)


@given(st.floats(0.1, 1.2), st.floats(0.5, 0.999), st.floats(-2, 2), st.floats(0.01, 5))
def test_variance_after_the_first_step_of_the_guard(a, s1, mean, variance):
    times = [1.0, s1]
    got = lm.flow_chain_moments(guarded_law(times, a), times, mean, variance)[1]
    assert got == pytest.approx(s1**2 + a**2 * (1 - s1) + a**4 / 4, rel=1e-9)


def test_first_step_of_the_guard_for_data_that_are_not_gaussian():
    """At s = 1 the velocity is x - E[x0] for all data; q is the noise level for every n."""
    rng = np.random.default_rng(5)
    data = TwoModes()
    for n in (10, 1000):
        times = shifted_times(n, 3.0)
        x = run_chain(guarded_law, times[:2], data, 200_000, rng)
        exact = times[1] ** 2 + 0.49 * (1 - times[1]) + 0.7**4 / 4
        assert x.var() == pytest.approx(exact, rel=0.02)
        _, q = guarded_law(times)(0.0, 0.0, 1.0, times[1])
        assert q == pytest.approx(0.7)


def test_clamp_makes_the_first_step_violent():
    times = shifted_times(10, 3.0)
    law = LAWS["Flow-GRPO, clamp 0.999"](times)
    variance = lm.flow_chain_moments(law, times[:2], 1.5, 0.25)[1]
    g = 0.7**2 * (1 - times[1]) / (1 - 0.999)
    formula = times[1] ** 2 + g * (1 - times[1]) + g**2 / 4
    right = times[1] ** 2 + (1 - times[1]) ** 2 * 0.25
    told = re.search(r"which is ([\d.]+) for 0.999 .*? = ([\d.]+)\), where ([\d.]+) is right", PAGE)
    assert told and [float(number) for number in told.groups()] == [
        round(variance, 1),
        round(g, 1),
        round(right, 2),
    ]
    assert formula == pytest.approx(variance, rel=1e-3)


@given(st.floats(0.1, 1.2), st.floats(0.5, 0.99), st.floats(0.991, 0.999), st.floats(-2, 2))
def test_variance_after_the_first_step_of_a_clamp(a, s1, largest, mean):
    """The formula of the page with G in the place of a^2, for all levels and clamps."""
    law = sde_law(lambda s: lm.flow_grpo_clamped_diffusion(s, largest, a))
    got = lm.flow_chain_moments(law, [1.0, s1], mean, 0.25)[1]
    g = a**2 * (1 - s1) / (1 - largest)
    assert got == pytest.approx(s1**2 + g * (1 - s1) + g**2 / 4, rel=1e-9)


def test_first_steps_of_all_guards():
    """The numbers of the row of `ldmref differences`."""
    times = shifted_times(10, 3.0)[:2]
    names = [n for n in LAWS if n.startswith("Flow-GRPO")]
    found = [lm.flow_chain_moments(LAWS[n](times), times, 0.0, 0.25)[1] for n in names]
    assert [f"{v:.4g}" for v in found] == ["1.007", "0.973", "1.758", "78.12"]
    assert f"{times[1] ** 2 + (1 - times[1]) ** 2 * 0.25:.3f}" == "0.930"


def right_side(power, data=None):
    grid = np.linspace(-4, 4, 8001)
    density = (data or TwoModes()).powered(power, grid)
    return density[grid > 0].sum() * (grid[1] - grid[0])


@pytest.mark.parametrize("level", [0.7, 1.0])
def test_samples_of_two_modes_are_those_of_the_power(level):
    """Not of another one: 0.25 more or less in the exponent is further from the samples."""
    rng = np.random.default_rng(0)
    x = run_chain(lambda times: cps(level), shifted_times(1000), TwoModes(), 8000, rng)
    share = (x > 0).mean()
    k = lm.tempering_exponent(level)
    error = abs(share - right_side(k))
    assert error < 3.5 * math.sqrt(0.25 / 8000) < 0.03
    for other in (k - 0.25, k + 0.25):
        assert error < abs(share - right_side(other))


def test_numbers_of_the_text():
    assert f"{right_side(1.0):.1%}" == "30.9%" and "30.9 %" in PAGE
    assert f"{right_side(2.0):.1%}" == "16.1%" and "$`p^2`$ 16.1 %" in PAGE
    assert f"{lm.tempering_exponent(0.7):.3f}" == "1.376" and "p^{1.376}" in PAGE
    floor = lm.log_ratio_floor(1.0, 0.1, 16 * 128 * 128, 2.0**-7, average=True)
    assert f"{floor:.1e}" == "4.6e-05" and re.search(r"4\.6 \\cdot 10\^\{-5\}", PAGE)
