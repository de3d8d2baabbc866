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
from ldmref.atlas.intervals import (
    TOKENS,
    Printed,
    _candidates,
    _distance,
    depends_on_tokens,
    fit_mu,
    fit_tokens,
    oddness,
)
from ldmref.atlas.making import shift_mu, shifted
from ldmref.atlas.naming import SigmaMatch, _likeliest
from ldmref.atlas.positions import UNSHIFTED, _strided
from ldmref.atlas.reading import name_numbers
from ldmref.atlas.table import FlowSchedule
from ldmref.math import shift_flow_time

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
    constant = [row for row in read_flow_schedules() if row.shift in ("linear", "exponential")]
    own = {*UNSHIFTED, "linear-quadratic"}  # which ignore the shift
    moved = {row for row in constant if row.positions not in own and shift_mu(row, 1, 1) != 0}
    by_tokens = {row for row in read_flow_schedules() if row.shift.startswith("tokens")}
    assert again <= {row.name for row in moved | by_tokens}
    count = len(sigmas) - 1
    as_long = {row.name for row in moved if len(make_flow_sigmas(row, count)) == len(sigmas)}
    assert as_long <= again


@pytest.mark.parametrize("tokens", [1024, 7000])
def test_a_shift_by_tokens_is_found_a_second_time(tokens):
    times = make_flow_sigmas(FLUX, 12, tokens)[:-1]
    again = shift_flow_time(times, math.exp(shift_mu(FLUX, 12, tokens)))
    matches = [m for m in name_sigmas(times) if m.row == FLUX and m.shifted_again]
    (twice,) = matches
    assert twice.distance == pytest.approx(float(abs(again - times).max()), abs=1e-5)
    assert twice.agreeing == (0, 0) and not twice.matches


@pytest.mark.parametrize(("units", "matches"), [(0.9, True), (1.5, False)])
def test_a_list_matches_if_no_number_is_further_than_its_precision(units, matches):
    row = find_flow_schedule("Wan")
    times = make_flow_sigmas(row, 8)[:-1]
    changed = times - 1e-3 * units * (np.arange(8) == 3)
    (found,) = (m for m in name_sigmas(changed, 1e-3) if m.row == row and not m.shifted_again)
    assert found.matches == matches and found.agreeing == (0, 0)
    assert found.distance == pytest.approx(1e-3 * units, rel=1e-6)


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


# -- the ends of what is searched -----------------------------------------------------------------


def test_tokens_are_searched_from_64_to_4096_pixels():
    assert ((64 // 16) ** 2, (4096 // 16) ** 2) == TOKENS
    for tokens in TOKENS:
        found = named_by_flux(make_flow_sigmas(FLUX, 8, tokens)[:-1])
        assert found.matches and found.tokens == tokens and tokens in found.agreeing
    for tokens in (15, 80000):
        found = named_by_flux(make_flow_sigmas(FLUX, 8, tokens)[:-1])
        assert not found.matches and found.agreeing == (0, 0)


def named_by_flux(sigmas):
    (found,) = (
        match
        for match in name_sigmas(sigmas.tolist(), 1e-9)
        if match.row == FLUX and not match.shifted_again
    )
    return found


def test_a_shift_beyond_the_ends_is_nearest_to_an_end_and_agrees_with_none():
    times = shifted(FLUX, 8, -9.0)
    best, *interval = fit_mu(FLUX, 8, Printed(times, 0.01 * times[1:].min() * np.ones(8)))
    assert best == -8.0 and all(map(math.isnan, interval))


@pytest.mark.parametrize(("units", "agrees"), [(0.9, True), (1.1, False), (1.9, False)])
def test_a_shift_agrees_if_no_number_is_more_than_half_a_digit_away(units, agrees):
    times = shifted(FLUX, 8, 1.0)
    changed = times + 1e-4 * units * np.array([0, 1, -1, 1, -1, 1, -1, 1])
    _, low, high = fit_mu(FLUX, 8, Printed(changed, np.full(8, 1e-4)))
    assert math.isnan(low) == math.isnan(high) == (not agrees)


def test_rows_depend_on_tokens_if_their_flow_times_do():
    for row in read_flow_schedules():
        steps = len(row.sigmas) or 12
        few, many = (make_flow_sigmas(row, steps, tokens) for tokens in (256, 16384))
        assert depends_on_tokens(row) == (not np.array_equal(few, many)), row.name


@pytest.mark.parametrize("tokens", [1500, 4299, 4300, 4301, 4302, 9000])
def test_both_pieces_of_the_rule_of_flux2_are_searched(tokens):
    """Its mu is another function of the tokens above 4300, and lists of both have a nearest one."""
    row = find_flow_schedule("FLUX.2")
    times = shifted(row, 12, shift_mu(row, 12, tokens))
    exact = Printed(times, np.full(12, 1e-10))
    assert fit_tokens(row, 12, exact, fit_mu(row, 12, exact)) == (tokens, tokens, tokens)
    noise = 1e-6 * np.array([0, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 0])
    changed = Printed(times + noise, np.full(12, 1e-8))
    found, *agreeing = fit_tokens(row, 12, changed, fit_mu(row, 12, changed))
    assert agreeing == [0, 0] and found == tokens


@pytest.mark.parametrize("tokens", [250, 1031, 2050, 3990, 4097, 7000])
@pytest.mark.parametrize("decimals", [3, 4, 5])
def test_the_likeliest_of_the_tokens_that_agree_is_the_most_usual(tokens, decimals):
    """Of equally usual ones the nearest to the mu that fits best, then the smaller."""
    rounded = printed(FLUX, 8, shift_mu(FLUX, 8, tokens), decimals)
    fit = fit_mu(FLUX, 8, rounded)
    found, low, high = fit_tokens(FLUX, 8, rounded, fit)
    middle = min(range(low, high + 1), key=lambda n: abs(shift_mu(FLUX, 8, n) - fit[0]))
    near = [n for n in range(low, high + 1) if abs(n - middle) <= 256 or oddness(n) == 0]
    assert found == min(near, key=lambda n: (oddness(n), abs(n - middle), n))


def test_candidates_are_squares_and_what_is_near_the_middle():
    squares = [side * side for side in range(32, 95)]
    assert [*_candidates(1000, 9000, 4000)] == [*squares, *range(3744, 4257)]
    assert [*_candidates(1025, 1089, 1060)] == [1089, *range(1025, 1090)]


def test_a_row_has_a_square_image_of_1024_pixels_if_nothing_is_said():
    default, usual = make_flow_sigmas(FLUX, 8), make_flow_sigmas(FLUX, 8, 4096)
    assert np.array_equal(default, usual)
    row = FlowSchedule("A", "b", "linspace", "none", 4, "there", "flow time")
    assert (row.end, row.count, row.factor, row.mu, row.std) == ("1/n", "n", 1.0, 0.0, 1.0)
    assert (row.table, row.pixels, row.terminal, row.sigmas) == (0, 0, 0.0, ())
    assert np.array_equal(make_flow_sigmas(row, 4), [1.0, 0.75, 0.5, 0.25, 0.0])
    match = SigmaMatch(FLUX, 4096, 0.0, True)
    assert match.agreeing == (0, 0) and not match.shifted_again
