"""Ends of ranges, exact lists, and lists of which one number is wrong, for every kind of row."""

from __future__ import annotations

from math import isqrt

import numpy as np
import pytest

from ldmref.atlas import (
    count_tokens,
    find_flow_schedule,
    make_flow_sigmas,
    name_sigmas,
    read_flow_schedules,
)
from ldmref.atlas.intervals import (
    TOKENS,
    Printed,
    _candidates,
    depends_on_tokens,
    fit_mu,
    fit_tokens,
)
from ldmref.atlas.making import shift_mu, shifted
from ldmref.atlas.naming import SigmaMatch
from ldmref.errors import UsageError

KINDS = {(row.positions, row.shift, row.terminal > 0): row for row in read_flow_schedules()}
BY_TOKENS = {
    (row.family, row.shift): row for row in read_flow_schedules() if depends_on_tokens(row)
}
Z_IMAGE = find_flow_schedule("Z-Image")


def kind(row):
    return row.name


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "tokens", "code"),
    [
        (1, 4096, ""), (10_000, 4096, ""), (0, 4096, "E-STEPS"), (10_001, 4096, "E-STEPS"),
        (4, 1, ""), (4, 2**20, ""), (4, 0, "E-SIZE"), (4, 2**20 + 1, "E-SIZE"),
    ],
)  # fmt: skip
def test_steps_and_tokens_have_a_smallest_and_a_largest_number(steps, tokens, code):
    if not code:
        assert len(make_flow_sigmas(Z_IMAGE, steps, tokens)) == steps + 1
        return
    with pytest.raises(UsageError) as caught:
        make_flow_sigmas(Z_IMAGE, steps, tokens)
    assert caught.value.code == code


def test_what_is_left_of_a_token_at_the_edges_does_not_count():
    assert [count_tokens(w, 16) for w in (16, 31, 32, 47)] == [1, 1, 2, 2]
    assert count_tokens(16 * 1024, 16 * 1024) == 2**20
    for size in ((15, 16), (16, 15), (16 * 1024, 16 * 1025)):
        with pytest.raises(UsageError):
            count_tokens(*size)


# -- exact lists ----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", BY_TOKENS.values(), ids=kind)
@pytest.mark.parametrize("tokens", [TOKENS[0], 100, 1024, 4096, 4300, 4301, 8160, 16384])
@pytest.mark.parametrize("steps", [4, 28])
def test_an_exact_list_has_its_number_of_tokens_alone(row, tokens, steps):
    """Twice, if another piece of the rule has the same mu there."""
    times = shifted(row, steps, shift_mu(row, steps, tokens))
    printed = Printed(times, np.full(times.shape, 1e-9))
    found = fit_tokens(row, steps, printed, fit_mu(row, steps, printed))
    if (tokens, row.shift) == (4301, "tokens and steps"):
        assert tokens in found[1:] or found[0] == tokens  # a lower piece may have the same mu
    else:
        assert found == (tokens, tokens, tokens)


@pytest.mark.parametrize("first", [16, 17, 4095, 4096, 4097])
@pytest.mark.parametrize("last", [4096, 4097, 4224, 4225, 9000])
def test_all_squares_of_a_range_may_be_its_likeliest_number(first, last):
    for middle in {first, last, (first + last) // 2} - {0}:
        if first > last:
            continue
        found = {*_candidates(first, last, middle)}
        assert {n for n in range(first, last + 1) if isqrt(n) ** 2 == n} <= found
        assert {n for n in range(first, last + 1) if abs(n - middle) <= 256} <= found
        assert min(found) >= first and max(found) <= last


# -- wrong numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("row", KINDS.values(), ids=kind)
def test_a_list_of_which_one_number_is_wrong_is_not_that_of_the_row(row):
    """Also if it is the first or the last, whether the 0 at the end is there or not."""
    steps = len(row.sigmas) or 8
    whole = make_flow_sigmas(row, steps)
    for times in (whole, whole[:-1]):
        right = [m for m in name_sigmas(times, 1e-7) if m.row == row and not m.shifted_again]
        assert right[0].matches
        for i in {0, len(times) // 2, len(times) - 1}:
            wrong = times.copy()
            before = times[i - 1] if i else times[0] + 1e-3
            wrong[i] = times[i] + min(1e-3, (before - times[i]) / 2) * (1 if i else -1)
            if wrong[i] == times[i] or (np.diff(wrong) > 0).any():
                continue
            same = [m for m in name_sigmas(wrong, 1e-7) if m.row == row and m.matches]
            assert not same, i


def test_rows_without_tokens_have_none_that_agree():
    matches = name_sigmas(make_flow_sigmas(find_flow_schedule("FLUX.1", "BFL"), 8), 1e-4)
    for match in matches:
        low, high = match.agreeing
        if not depends_on_tokens(match.row):
            assert (match.tokens, match.agreeing) == (0, (0, 0))
        elif match.shifted_again:
            assert match.agreeing == (0, 0)
        else:
            assert (low, high) == (0, 0) or TOKENS[0] <= low <= match.tokens <= high <= TOKENS[1]
    assert SigmaMatch(Z_IMAGE, 0, 0.0, True).agreeing == (0, 0)
