"""Which shifts and numbers of tokens agree with a printed list: both ends, and the nearest."""

import math

import numpy as np
import pytest

from ldmref.atlas import find_flow_schedule
from ldmref.atlas.intervals import TOKENS, Printed, _distance, fit_mu, fit_tokens
from ldmref.atlas.making import shift_mu, shifted
from ldmref.atlas.reading import name_numbers

FLUX = find_flow_schedule("FLUX.1", "BFL")


def printed(row, steps, mu, decimals):
    times = shifted(row, steps, mu).round(decimals)
    return Printed(times, np.full(times.shape, 0.5 * 10.0**-decimals))


@pytest.mark.parametrize("mu", [-0.5, 0.1, 0.7, 1.15, 3.0])
@pytest.mark.parametrize("decimals", [2, 4, 6])
def test_at_both_ends_of_the_interval_of_mu_a_number_is_half_a_digit_away(mu, decimals):
    """Below it a time is more than half a digit too small, above it too large."""
    found = printed(FLUX, 8, mu, decimals)
    best, low, high = fit_mu(FLUX, 8, found)
    assert low < best < high and low - 1e-9 <= mu <= high + 1e-9
    assert found.excess(shifted(FLUX, 8, low))[1] == pytest.approx(1.0, abs=1e-5)
    assert found.excess(shifted(FLUX, 8, high))[0] == pytest.approx(1.0, abs=1e-5)
    above, below = found.excess(shifted(FLUX, 8, best))
    assert above == pytest.approx(below, abs=1e-5)  # the nearest is as far on both sides


@pytest.mark.parametrize("seed", range(40))
def test_the_nearest_number_of_tokens_is_nearer_than_the_next_ones(seed):
    """Where no number agrees, since the list was changed."""
    rng = np.random.default_rng(seed)
    tokens = int(rng.integers(*TOKENS) ** 0.75)
    found = printed(FLUX, 6, shift_mu(FLUX, 6, tokens), 7)
    noise = 2e-4 * rng.standard_normal(found.times.shape)
    changed = Printed(found.times + noise, found.precision)
    fit = fit_mu(FLUX, 6, changed)
    assert all(map(math.isnan, fit[1:]))
    best, *agreeing = fit_tokens(FLUX, 6, changed, fit)
    assert agreeing == [0, 0]
    near = range(max(best - 2, TOKENS[0]), min(best + 2, TOKENS[1]) + 1)
    distances = {n: _distance(FLUX, 6, n, changed) for n in near}
    assert distances[best] == min(distances.values())


@pytest.mark.parametrize(("shift", "stated"), [(1.8, True), (1.777, False)])
def test_a_shift_of_few_decimals_is_stated_beside_an_unusual_size(shift, stated):
    """Some number of tokens makes nearly every shift; few numbers have two decimals by chance."""
    times = shifted(FLUX, 8, math.log(shift))
    answer = name_numbers(" ".join(f"{x:.5f}" for x in times))
    assert all("tokens" in rule for rule in answer.same) and answer.same
    assert any(f"k = {shift:g} " in fit for fit in answer.fitted) == stated
