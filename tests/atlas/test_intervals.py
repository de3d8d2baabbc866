"""Which shifts and numbers of tokens agree with a printed list: both ends, and the nearest."""

import math

import numpy as np
import pytest

from ldmref.atlas import (
    find_flow_schedule,
    make_flow_sigmas,
    name_sigmas,
    read_flow_schedules,
)
from ldmref.atlas.intervals import TOKENS, Printed, _distance, fit_mu, fit_tokens
from ldmref.atlas.making import shift_mu, shifted
from ldmref.atlas.naming import SigmaMatch, _likeliest
from ldmref.atlas.positions import UNSHIFTED, _strided
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


KINDS = {(row.positions, row.shift): row for row in read_flow_schedules()}


@pytest.mark.parametrize("row", KINDS.values(), ids=lambda row: row.name)
def test_only_rows_with_a_shift_are_tried_a_second_time(row):
    """A second shift by 1 is none, and some positions are never shifted."""
    sigmas = make_flow_sigmas(row, len(row.sigmas) or 12, 4096)
    again = {match.row.name for match in name_sigmas(sigmas.tolist()) if match.shifted_again}
    unmoved = {
        row.name
        for row in read_flow_schedules()
        if row.shift == "none" or row.positions in UNSHIFTED or row.shift == "constant 1"
    }
    assert not again & unmoved


def test_matches_are_in_the_order_of_how_usual_their_sizes_are():
    row = find_flow_schedule("FLUX.1", "BFL")
    for side, odd in ((64, 4155), (32, 1023)):
        square, unusual = (
            SigmaMatch(row, tokens, distance, True)
            for tokens, distance in ((side * side, 1e-6), (odd, 0.0))
        )
        constant = SigmaMatch(row, 0, 1e-6, True)
        again = SigmaMatch(row, side * side, 0.0, True, shifted_again=True)
        far = SigmaMatch(row, side * side, 1e-9, False)
        order = [again, far, unusual, square]
        assert sorted(order, key=_likeliest) == [square, unusual, again, far]
        assert _likeliest(constant)[:3] == _likeliest(square)[:3] < _likeliest(unusual)[:3]


@pytest.mark.parametrize(("steps", "stride"), [(1, 1000), (4, 250), (28, 35), (999, 1), (1000, 1)])
def test_strides_of_a_table_have_a_whole_number_of_entries(steps, stride):
    (row, *_) = (row for row in read_flow_schedules() if row.positions == "strides")
    found = _strided(row, steps)
    right = [(k + 1) / row.table for k in range(1, row.table, row.table // 1000 * stride)]
    assert found.tolist() == right[::-1]


@pytest.mark.parametrize(("shift", "stated"), [(1.8, True), (1.777, False)])
def test_a_shift_of_few_decimals_is_stated_beside_an_unusual_size(shift, stated):
    """Some number of tokens makes nearly every shift; few numbers have two decimals by chance."""
    times = shifted(FLUX, 8, math.log(shift))
    answer = name_numbers(" ".join(f"{x:.5f}" for x in times))
    assert all("tokens" in rule for rule in answer.same) and answer.same
    assert any(f"k = {shift:g} " in fit for fit in answer.fitted) == stated
