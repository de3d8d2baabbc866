"""Limits of pasted text, sizes of images that are usual, and numbers in their simplest form."""

from dataclasses import replace

import numpy as np
import pytest

from ldmref.atlas import (
    describe_matches,
    find_flow_schedule,
    fit_shifts,
    make_flow_sigmas,
    name_numbers,
    name_sigmas,
    read_flow_schedules,
    read_numbers,
)
from ldmref.atlas.intervals import oddness
from ldmref.atlas.naming import (
    ShiftFit,
    SigmaMatch,
    _decimals,
    _joined,
    _read,
    _readings,
    _shift_fit,
    _simplest,
)
from ldmref.atlas.positions import UNSHIFTED
from ldmref.atlas.reading import find_numbers
from ldmref.errors import InputError


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (16, 0),
        (4096, 0),
        (4 * 12, 1),
        (64 * 48, 1),
        (8 * 28, 1),
        (2 * 6, 2),
        (8 * 10, 2),  # 4 x 20 is too long
        (62 * 66, 2),
        (6 * 6, 2),
        (2 * 10, 3),
        (63 * 63, 3),
        (4155, 3),
        (1, 3),
    ],
)
def test_unusual_sizes_are_ranked(tokens, expected):
    assert oddness(tokens) == expected


def test_a_text_has_a_limited_number_of_characters_and_numbers():
    assert len(find_numbers("0.5 " * 2000)) == 2000
    assert find_numbers("0.5" + " " * (2**18 - 3)) == ["0.5"]
    assert find_numbers(" " * (2**18 - 4) + "0.25") == ["0.25"]
    for text in ("0.5 " * 2001, "0.5" + " " * (2**18 - 2)):
        with pytest.raises(InputError) as caught:
            find_numbers(text)
        assert caught.value.code == "E-SIGMAS"


def test_a_number_has_a_limited_number_of_digits_and_exponent():
    longest = "0." + "1" * 62
    assert find_numbers(longest) == [longest]
    assert find_numbers("1e-99 1E99") == ["1e-99", "1E99"]
    for text in (longest + "1", "1e-100", "1E100"):
        with pytest.raises(InputError) as caught:
            find_numbers(text)
        assert caught.value.code == "E-SIGMAS"


def test_words_with_digits_are_no_numbers():
    assert find_numbers("sigma_2 0.75 x1 size=3 dtype=torch.float32 device='cuda:0'") == ["0.75"]
    assert find_numbers("-.5 +.25 1.") == ["-.5", "+.25", "1."]


def test_whole_numbers_may_be_cut():
    values, units = read_numbers("1000 750 0")
    assert values == [1000.0, 750.0, 0.0] and units == [1.0, 1.0, 1.0]
    assert read_numbers("0.00 0.5")[1] == [0.005, 0.05]


def test_a_text_without_numbers_is_refused():
    with pytest.raises(InputError) as caught:
        read_numbers("none")
    assert caught.value.code == "E-SIGMAS" and caught.value.hint


# -- names ----------------------------------------------------------------------------------------


def test_timesteps_are_those_from_800():
    times = make_flow_sigmas(find_flow_schedule("Wan"), 8)[:-1]
    begin = times[times < 0.95]
    scaled = 800.0 / begin[0]
    (best, *_) = name_sigmas(scaled * begin, 1e-3)
    assert best.distance < 1.0
    with pytest.raises(InputError) as caught:
        name_sigmas([799.9, 500.0])
    assert caught.value.code == "E-SIGMAS"


def test_flow_times_are_at_most_1_within_their_precision():
    assert name_sigmas([1.04, 0.5], 0.05)
    with pytest.raises(InputError):
        name_sigmas([1.06, 0.5], 0.05)
    assert name_sigmas([1.0, 0.0])
    with pytest.raises(InputError):
        name_sigmas([1.0, -1e-9])


def test_each_number_has_its_own_precision():
    """The first may be as far above 1 as it is printed, whatever the second is."""
    assert name_sigmas([1.005, 0.5], [0.01, 0.0]) and name_sigmas([1.0 + 2e-6, 0.5], 0.0)
    for precision in ([0.0, 0.01, 0.01], 1e-3):
        with pytest.raises(InputError, match=r"1.005 to 0.5 are no flow times"):
            name_sigmas([1.005, 0.7, 0.5], precision)
    with pytest.raises(InputError, match="no flow times"):
        name_sigmas([0.5, 0.3, -0.1])


def test_a_zero_at_the_end_is_left_out_first():
    for values, lengths in (([1.0, 0.5, 0.0], [2, 3]), ([1.0, 0.0], [2]), ([1.0, 0.5, 0.2], [3])):
        readings = [*_readings(values, 1e-3)]
        assert [len(x.times) for x in readings] == lengths
        assert [len(x.precision) for x in readings] == lengths


def test_equal_flow_times_may_follow_each_other():
    assert name_sigmas([1.0, 0.5, 0.5])
    with pytest.raises(InputError):
        name_sigmas([1.0, 0.5, 0.5 + 1e-9])


def test_two_informative_numbers_are_needed_for_a_fit():
    assert fit_shifts([1.0, 0.5, 0.0]) == []
    assert fit_shifts([1.0, 0.77778, 0.46667], 5e-6)[0].factor == 1.75


def test_a_fit_has_the_simplest_number_and_its_interval():
    s = np.linspace(1, 1 / 20, 20)
    (first, *_) = fit_shifts((1.75 * s / (1 + 0.75 * s)).round(5), 5e-6)
    assert first.factor == 1.75 and first.decimals == 2
    assert first.mu == pytest.approx(np.log(1.75), rel=1e-12)
    assert first.low < first.mu < first.high < first.low + 1e-4
    (_, one), (_, two) = first.others
    assert abs(one - first.mu) <= abs(two - first.mu)


@pytest.mark.parametrize(
    "row",
    [r for r in read_flow_schedules() if r.sigmas or r.program == "ComfyUI karras"],
    ids=lambda row: row.name,
)
def test_what_is_never_shifted_is_not_fitted(row):
    fits = fit_shifts(make_flow_sigmas(row, len(row.sigmas) or 12))
    assert all(fit.row.shift != "none" for fit in fits)
    assert all(fit.row.positions not in UNSHIFTED for fit in fits)


def test_a_row_of_another_scheduler_names_it():
    own = find_flow_schedule("SD3", "ComfyUI")
    for name in ("karras", "beta"):
        rows = [row for row in read_flow_schedules() if row.program == f"ComfyUI {name}"]
        assert all(f"scheduler {name}" in row.remark for row in rows)
    assert "scheduler karras" not in own.remark


@pytest.mark.parametrize("row", read_flow_schedules(), ids=lambda row: row.name)
def test_words_of_a_row_have_its_numbers(row):
    """Of another scheduler of ComfyUI's, those of its rule and not of the family's."""
    if row.positions in ("list", "logit-normal"):
        assert row.spacing == row.positions
        words = "an explicit list" if row.sigmas else f"std {row.std:g}"
        assert words in row.rule and (f"mean {row.mu:g}" in row.rule) == (row.mu != 0.0)
        return
    assert row.spacing != row.positions and "shifted," not in row.spacing
    fixed = {"linear-quadratic": "parabola", "bong_tangent": "arctangents to 0"}
    if row.positions in fixed and row.rule == "no shift":
        assert fixed[row.positions] in row.spacing
        return
    if row.table:
        assert str(row.table) in row.spacing
    if row.shift in ("linear", "exponential"):
        assert f"{row.factor if row.shift == 'linear' else row.mu:g}" in row.rule
    assert ("stretched" in row.rule) == (row.terminal != 0.0)


def test_the_nearest_two_families_are_told_with_a_fit():
    """With their mu at 4096 tokens; two spacings that make the same numbers have one fit."""
    row = find_flow_schedule("FLUX.1", "BFL")
    fit = _shift_fit(row, 4, 1.1599, 1.1601)
    assert len(fit.others) == 2
    assert dict(fit.others)["FLUX.1"] == pytest.approx(1.15, abs=1e-12)
    one = replace(fit, mu=1.1, others=(("A", 1.0), ("B", 3.0)))
    other = replace(fit, mu=1.1, others=(("C", 1.25), ("D", -1.1), ("A", 9.0)))
    assert _joined(one, other).others == (("A", 1.0), ("C", 1.25))


@pytest.mark.parametrize(
    ("low", "high", "number"),
    [
        (0.0, 0.9, 0.0),
        (0.1, 1.0, 1.0),
        (0.25, 0.36, 0.3),
        (0.1234567890116, 0.1234567890121, 0.12345678901185),
    ],
)
def test_the_simplest_number_of_an_interval_may_be_its_end_or_its_middle(low, high, number):
    assert _simplest(low, high) == pytest.approx(number, abs=1e-15)


def test_decimals_are_counted_up_to_twelve():
    numbers = (0.0, 3.0, 1.75, 1e-11, np.pi * 1e-6)
    assert [_decimals(number) for number in numbers] == [0, 0, 2, 11, 12]
    row = find_flow_schedule("Wan")
    assert "with k = 1 (mu 0) " in str(ShiftFit(row, 0.0, 1.0, 0.0, 0.0))  # as simple as mu


def test_fits_are_simplest_first():
    s = np.linspace(1, 1 / 9, 9)
    fits = fit_shifts((1.75 * s / (1 + 0.75 * s)).round(3), 5e-4)
    assert [fit.decimals for fit in fits] == sorted(fit.decimals for fit in fits)


@pytest.mark.parametrize("k", ["1.87", "2.57", "3.08"])
def test_a_shift_of_two_decimals_is_stated_beside_sides_of_32_pixels(k):
    """Tokens of 50 x 20, or 84 x 53, make it as well, and are less usual than the number."""
    s = np.linspace(1, 1 / 8, 8)
    answer = name_numbers(" ".join(f"{x:.5f}" for x in float(k) * s / (1 + (float(k) - 1) * s)))
    assert answer.same and any(f"k = {k} " in fit for fit in answer.fitted)


def match(row, distance, matches=False, again=False):
    return SigmaMatch(row, 0, distance, matches, again)


def test_what_is_told_of_matches():
    rows = read_flow_schedules()[:4]
    near = [match(row, 0.01 * i) for i, row in enumerate(rows)]
    assert len(describe_matches(near).nearest) == 3
    assert describe_matches([match(rows[0], 0.2)]).nearest
    assert not describe_matches([match(rows[0], 0.21)]).nearest
    assert not describe_matches([match(rows[0], 0.01, again=True)]).nearest
    same = describe_matches([match(rows[0], 0.0, True, True)])
    assert len(same.same) == 1 and not same.nearest and same.fitted == ()


def test_at_most_three_fits_are_told():
    s = np.linspace(1, 1 / 9, 9)
    fits = fit_shifts((1.75 * s / (1 + 0.75 * s)).round(3), 5e-4)
    told = describe_matches([], (fits * 4)[:5])
    assert len(told.fitted) == 3


def test_families_of_one_rule_are_joined():
    text = name_numbers("1.0 0.9 0.75 0.5").same[0]
    assert text.startswith("Z-Image, ")
    rows = {row.family: row for row in reversed(read_flow_schedules())}
    own = [match(rows[family], 0.0, True) for family in ("SD3", "Z-Image", "Qwen-Image", "Wan")]
    plain = [SigmaMatch(_with_rule_of_sd3(m.row), 0, 0.0, True) for m in own]
    assert describe_matches(plain[:3]).same[0].startswith("SD3 and Z-Image and Qwen-Image, ")
    assert "SD3, Z-Image and 2 more families" in describe_matches(plain).same[0]


def _with_rule_of_sd3(row):
    return replace(find_flow_schedule("SD3"), family=row.family)


def test_the_nearest_of_usual_sizes_is_named():
    """With a coarse precision several squares agree; the one that makes the numbers is in the
    middle."""
    row = find_flow_schedule("FLUX.1", "BFL")
    for side in (36, 48, 52):
        sigmas = make_flow_sigmas(row, 4, side * side)
        (found,) = [m for m in name_sigmas(sigmas, 2e-2) if m.row == row and not m.shifted_again]
        low, high = found.agreeing
        assert low <= (side - 4) ** 2 and (side + 4) ** 2 <= high
        assert found.tokens == side * side


@pytest.mark.parametrize("tokens", [4092, 4095, 1023])
def test_no_usual_size_beyond_the_interval_is_named(tokens):
    row = find_flow_schedule("FLUX.1", "BFL")
    sigmas = make_flow_sigmas(row, 28, tokens)
    (found,) = [m for m in name_sigmas(sigmas, 1e-7) if m.row == row and not m.shifted_again]
    assert found.agreeing[0] <= found.tokens <= found.agreeing[1] < tokens + 1.5
    assert found.tokens == tokens


def test_the_mean_of_a_usual_size_is_not_told_as_a_fit():
    row = find_flow_schedule("FLUX.1", "BFL")
    text = " ".join(f"{v:.5f}" for v in make_flow_sigmas(row, 28, 1024))
    assert name_numbers(text).same and name_numbers(text).fitted == ()
    odd = " ".join(f"{v:.5f}" for v in make_flow_sigmas(row, 28, 4155))
    assert name_numbers(odd).same


def test_the_factor_is_simple_if_the_mu_is_not_simpler():
    row = find_flow_schedule("FLUX.1", "ComfyUI")
    fit = _shift_fit(row, 4, 0.9, 1.2)
    assert fit.factor == 3.0 and fit.mu == np.log(3.0)
    fit = _shift_fit(row, 4, 1.09, 1.11)
    assert fit.mu == pytest.approx(1.0986, abs=1e-3) and fit.factor == 3.0
    fit = _shift_fit(row, 4, 1.1999, 1.2001)
    assert fit.mu == 1.2 and fit.factor == np.exp(1.2)


def test_timesteps_are_thousandths_with_their_precision():
    times, margins = _read([1000.0, 500.0], [1.0, 2.0])
    assert times.tolist() == [1.0, 0.5]
    assert margins == pytest.approx([1e-3 + 2e-6, 2e-3 + 2e-6], rel=1e-12)
    times, margins = _read([0.9, 0.5], 1e-3)
    assert times.tolist() == [0.9, 0.5] and margins == pytest.approx(1e-3 + 2e-6, rel=1e-12)


def test_matches_come_first_then_the_nearest():
    matches = name_sigmas(make_flow_sigmas(find_flow_schedule("FLUX.1", "BFL"), 20, 4155), 5e-4)
    found = [m for m in matches if m.matches]
    assert found and found == matches[: len(found)]
    ranks = [(m.shifted_again, oddness(m.tokens) if m.tokens else 0) for m in found]
    assert ranks == sorted(ranks)
    others = [m.distance for m in matches[len(found) :]]
    assert others == sorted(others)
