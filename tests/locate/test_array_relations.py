"""Relations of arrays, one by one: what is recognised, and what is nearly it and is not."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.locate.layouts import (
    CLOSE,
    LEAST_OF_CHANNEL,
    _by_channel,
    _constant,
    _flipped,
    _ranges,
    _scaled,
    _zeros_in_front,
    find_order,
    first_nonfinite,
    largest_value,
    recognise,
    relative_error,
    resplit_heads,
    restore_order,
    shrinkage,
)

TINY = 1e-9


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def words(got, right, close=TINY):
    found = recognise(got, right, close)
    return "" if found is None else found.text


def test_relative_errors():
    right = np.array([1.0, -4.0])
    assert relative_error(right + np.array([1.0, 0.0]), right) == 0.25
    assert relative_error(right[None], right) == relative_error(right * np.nan, right) == np.inf
    assert relative_error(np.zeros(0), np.zeros(0)) == 0.0
    assert relative_error(np.zeros(2), np.zeros(2)) == 0.0
    assert relative_error(np.array([3], np.uint8), np.array([4], np.uint8)) == 0.25


def test_errors_of_any_numbers_raise_no_warning():
    far = np.array([1e308, 1.0])
    with np.errstate(all="raise"):
        assert relative_error(far, -far) == np.inf
        for value in (np.inf, -np.inf, np.nan):
            x = np.array([value, 1.0])
            assert relative_error(x, np.ones(2)) == relative_error(x, x) == np.inf
        narrow = np.array([6e4, 1.0], np.float16)
        np.testing.assert_allclose(relative_error(narrow, -narrow), 2.0)
    assert relative_error(np.array([250], np.uint8), np.array([4], np.uint8)) == 246 / 4
    assert relative_error(np.array([True]), np.array([False])) > 0.0


def test_largest_values_and_what_shrinks():
    assert largest_value(np.zeros((0, 3))) == 0.0 and largest_value(np.array([-3.0, 2.0])) == 3.0
    assert largest_value(np.array([0.25])) == 0.25
    assert shrinkage(np.array([6.0, 1.0]), np.array([-2.0])) == 3.0
    assert shrinkage(np.ones(2), np.zeros(2)) == 1.0
    assert shrinkage(np.zeros(2), np.ones(2)) == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_number_that_is_not_finite_hides_any_relation(value, rng):
    right = rng.standard_normal((2, 3, 4))
    got = right[::-1].copy()
    assert words(got, right) == "batch halves swapped"
    got[1, 2, 3] = value
    assert recognise(got, right, TINY) is None


def test_zeros_for_an_array_that_is_partly_zero(rng):
    right = rng.standard_normal((2, 3, 4))
    right[0] = 0.0
    assert words(0.0 * right, right) == "all zeros"


@pytest.mark.parametrize("shape", [(1, 3, 2, 5), (2, 3, 2, 5), (2, 4, 3, 3), (3, 6, 1, 2)])
def test_pixels_in_a_row_with_their_channels_last(shape, rng):
    x = rng.standard_normal(shape)
    n, c, h, w = shape
    for flat in ((n, h * w, c), (n * h * w, c)):
        last = x.transpose(0, 2, 3, 1).reshape(flat)
        found = [layout for layout in restore_order(last, shape) if "0,2,3,1 and" in layout.text]
        assert [layout.harmless for layout in found] == [True]
        assert np.array_equal(found[0].array, x)
    other = x.reshape(n, c, h * w)
    if (h * w, c) != (c, h * w):
        assert not any("0,2,3,1 and" in layout.text for layout in restore_order(other, shape))


def rolled(relation, x, by, axis):
    return [layout.text.partition("order ")[2] for layout in relation(np.roll(x, by, axis), x)]


def test_what_is_recognised_restores_the_array(rng):
    right = rng.standard_normal((2, 4, 6, 6))
    tokens = rng.standard_normal((2, 6, 8))
    cases = {
        "equal after transpose 0,2,3,1": (right.transpose(0, 2, 3, 1), right),
        "equal after transpose 0,1,3,2": (right.transpose(0, 1, 3, 2), right),
        "equal after reshape from (8, 6, 6)": (right.reshape(8, 6, 6), right),
        "batch halves swapped": (right[::-1], right),
        "axis 1 reversed": (tokens[:, ::-1], tokens),
        "sign reversed": (-right, right),
        "scaled by 1.5": (1.5 * right, right),
        "scaled by 0.14286 = 1/7": (right / 7.0, right),
        "shifted by 0.25": (right + 0.25, right),
        "scaled and shifted: 2 x + 0.75": (2.0 * right + 0.75, right),
        "scaled and shifted: 2 x - 0.75": (2.0 * right - 0.75, right),
        "pixels in [0, 1] instead of [-1, 1]: 0.5 x + 0.5": (0.5 * right + 0.5, right),
        "heads permuted: (d/heads, heads) for 2 heads": (
            tokens.reshape(2, 6, 2, 4).swapaxes(2, 3).reshape(tokens.shape),
            tokens,
        ),
        "heads permuted: (heads, l) instead of (l, heads) for 2 heads": (
            tokens.reshape(2, 6, 2, 4).swapaxes(1, 2).reshape(tokens.shape),
            tokens,
        ),
        "all zeros": (0.0 * right, right),
    }
    for text, (got, expected) in cases.items():
        found = recognise(got, expected, TINY)
        assert found is not None and found.text == text
        assert relative_error(found.array, expected) <= TINY or text == "all zeros"
        assert found.harmless == text.startswith("equal after")


@pytest.mark.parametrize("batch", [2, 4])
def test_the_halves_of_a_batch(batch, rng):
    right = rng.standard_normal((batch, 3, 2))
    assert words(np.roll(right, batch // 2, axis=0), right) == "batch halves swapped"
    pooled = right.reshape(batch, 6)
    assert words(np.roll(pooled, batch // 2, axis=0), pooled) == "batch halves swapped"
    assert words(np.roll(right, 1, axis=0), right) in ("", "batch halves swapped")
    odd = rng.standard_normal((3, 5, 2))
    assert "halves" not in words(np.roll(odd, 1, axis=0), odd)
    one = rng.standard_normal((1, 5, 2))
    assert words(one, one) == ""


def test_parts_in_the_other_order(rng):
    image = rng.standard_normal((1, 5, 4, 4))
    rolled = np.roll(image, -2, axis=1)
    assert words(rolled, image).endswith("channels in the order [2:, :2]")
    tokens = rng.standard_normal((2, 3, 7))
    assert words(np.roll(tokens, -3, axis=2), tokens).endswith("channels in the order [3:, :3]")
    assert words(np.roll(tokens, -1, axis=1), tokens).endswith("tokens in the order [1:, :1]")
    pair = rng.standard_normal((3, 8))
    assert words(np.roll(pair, -5, axis=1), pair).endswith("channels in the order [5:, :5]")
    assert words(np.roll(pair[0], 2), pair[0]) == ""
    image[..., 0, 0] = tokens[:, :, 0] = 0.0  # all of a part must agree, not one number
    tokens[..., 0] = 0.0
    assert words(np.roll(image, -2, axis=1), image).endswith("channels in the order [2:, :2]")
    assert words(np.roll(tokens, -1, axis=1), tokens).endswith("tokens in the order [1:, :1]")


def test_heads_that_are_split_otherwise(rng):
    right = rng.standard_normal((2, 4, 6, 3))
    flat = right.transpose(0, 2, 1, 3).reshape(2, 6, 12)
    two = flat.reshape(2, 6, 2, 6).transpose(0, 2, 1, 3)
    assert words(two, right) == "2 heads of width 6 instead of 4 of 3"
    resplit = resplit_heads(two, right.shape)
    assert resplit is not None and np.array_equal(resplit, right)
    assert resplit_heads(right, right.shape) is None
    assert resplit_heads(flat, right.shape) is None and resplit_heads(right, flat.shape) is None
    assert resplit_heads(two, (2, 4, 7, 3)) is None and resplit_heads(two, (1, 4, 6, 3)) is None
    wrong = right.transpose(0, 2, 1, 3).reshape(right.shape)
    assert "(heads, l) instead of (l, heads)" in words(wrong, right)


def test_channels_that_are_scaled_one_by_one(rng):
    right = rng.standard_normal((1, 3, 4, 4))
    gain, offset = np.array([2.0, 3.0, 0.5]), np.array([0.5, -1.0, 0.25])
    got = right * gain[:, None, None] + offset[:, None, None]
    text = words(got, right)
    assert text.startswith("each channel is scaled and shifted: channel 0 is 2 x + 0.5")
    assert "from 0.5 to 3" in text
    few = right[..., :3, :5]
    assert few[:, 0].size < LEAST_OF_CHANNEL
    assert words(got[..., :3, :5], few) == ""
    least = rng.standard_normal((1, 2, 4, LEAST_OF_CHANNEL // 4))
    assert words(least * [[[2.0]], [[3.0]]], least).startswith("each channel")
    flat = right.copy()
    flat[:, 1] = 1.0
    assert words(flat * gain[:, None, None], flat) == ""
    small = right * (1.0 + 4e-4 * np.arange(3)[:, None, None])
    assert words(small, right) == ""


@pytest.mark.parametrize("heads", [2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32])
def test_numbers_of_heads_that_networks_have(heads, rng):
    right = rng.standard_normal((1, 5, 7 * heads))
    parts = right.reshape(1, 5, heads, 7)
    inner = parts.swapaxes(2, 3).reshape(right.shape)
    assert words(inner, right) == f"heads permuted: (d/heads, heads) for {heads} heads"
    outer = parts.swapaxes(1, 2).reshape(right.shape)
    text = f"heads permuted: (heads, l) instead of (l, heads) for {heads} heads"
    assert words(outer, right) == text


@pytest.mark.parametrize(("name", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_numbers_of_a_narrower_format(name, digits, rng):
    right = rng.standard_normal(LEAST_OF_CHANNEL)
    mantissa, exponent = np.frexp(right)
    narrow = np.ldexp(np.rint(mantissa * 2.0**digits) / 2.0**digits, exponent)
    assert words(narrow, right) == f"rounded to {name}"
    assert words(narrow[1:], right[1:]) == ""  # too few to tell
    beside = np.ldexp((np.rint(mantissa * 2.0**digits) + 2) / 2.0**digits, exponent)
    assert words(beside, right) == ""
    half = np.arange(len(right)) % 2 == 0  # of which each number is narrow, and half are right
    assert words(np.where(half, narrow, beside), right) == ""
    assert words(narrow * (1 + 2.0**-16), right) == ""


def test_what_is_no_relation(rng):
    right = rng.standard_normal((2, 3, 4, 4))
    assert recognise(rng.standard_normal(right.shape), right, 1e-3) is None
    assert recognise(right, right, TINY) is None  # nothing to explain
    assert recognise(np.full(right.shape, np.nan), right, TINY) is None
    assert recognise(np.zeros(0), right, TINY) is None
    assert recognise(np.zeros(3), np.zeros(3), TINY) is None
    assert recognise(1.5 * right + 1e-3 * np.sin(9 * right), right, 1e-6) is None
    assert words(1.5 * right + 1e-8 * np.sin(9 * right), right, 1e-6) == "scaled by 1.5"


def test_an_explanation_must_reduce_the_error(rng):
    """A tolerance that is larger than the error explains nothing."""
    right = rng.standard_normal((2, 3, 4))
    got = right + 0.01 * rng.standard_normal(right.shape)
    assert recognise(got, right, 1.0) is None
    assert words(1.0005 * right, right, 1.0) in ("", "scaled by 1.0005")


def test_a_later_relation_must_be_clearly_better(rng):
    """Both an offset of pixels and a factor leave rounding: the usual one is named."""
    right = np.sign(rng.standard_normal((1, 3, 4, 4)))
    assert words(-right, right) == "sign reversed"
    assert words(0.5 * right + 0.5, right, 1e-3).startswith("pixels in [0, 1]")


def test_orders_of_a_shape(rng):
    x = rng.standard_normal((1, 3, 2, 5))
    found = [layout.text for layout in restore_order(x.transpose(0, 2, 3, 1), x.shape)]
    assert found[0] == "equal after transpose 0,2,3,1"
    for shape in ((1, 10, 3), (10, 3)):
        flat = x.transpose(0, 2, 3, 1).reshape(shape)
        moved = [layout.array for layout in restore_order(flat, x.shape)]
        assert any(np.array_equal(array, x) for array in moved)
        nearest = find_order(flat, x)
        assert nearest is not None and np.array_equal(nearest.array, x)
    assert not [*restore_order(x, x.shape)]
    assert not [*restore_order(x, (1, 3, 2, 6))] and find_order(x, x[..., :4]) is None


def test_another_order_of_the_same_shape_leaves_a_quarter_of_the_error():
    right = np.array([[0.0, 3.0], [0.0, 8.0]])
    for left, nearer in ((1.0, True), (1.0 + 1e-9, False), (0.0, True)):
        moved = right + np.array([[0.0, left], [0.0, 0.0]])
        got = moved.T
        assert relative_error(got, right) < 1.0
        found = find_order(got, right)
        assert (found is not None) == nearer
    assert find_order(np.eye(3), np.eye(3)) is None


def test_the_nearest_order_of_whole_numbers(rng):
    """Differences of bytes do not wrap around."""
    right = rng.integers(0, 256, (4, 4, 4)).astype(np.uint8)
    for axes in ((0, 2, 1), (1, 0, 2), (2, 1, 0)):
        found = find_order(right.transpose(axes), right.astype(np.int64))
        assert found is not None and np.array_equal(found.array, right)
        found = find_order(right.transpose(axes), right)
        assert found is not None and np.array_equal(found.array, right)


def test_axes_of_one_number_are_not_reversed(rng):
    x = rng.standard_normal((1, 2, 3, 1))
    found = {layout.text: layout.array for layout in _flipped(x, x)}
    assert set(found) == {"axis 1 reversed", "axis 2 reversed"}
    assert np.array_equal(found["axis 1 reversed"], x[:, ::-1])
    assert [*_flipped(x, x[:, :1])] == []


@pytest.mark.parametrize(
    ("factor", "text"),
    [(0.5, "0.5"), (0.25, "0.25 = 1/4"), (0.125, "0.125 = 1/8"), (4.0, "4"), (0.1, "0.1"),
     (1.0 / 3.0, "0.33333 = 1/3"), (1.0 / 0.13025, "7.6775")],
)  # fmt: skip
def test_a_factor_is_the_rounder_of_two_numbers(factor, text):
    assert _constant(factor) == text


def test_the_first_value_that_is_not_finite():
    x = np.zeros((2, 3))
    assert first_nonfinite(x) == ""
    x[1, 1], x[1, 2] = np.inf, np.nan
    assert first_nonfinite(x) == "infinity at [1, 1], 2 of 6 values"
    x[0, 2] = np.nan
    assert first_nonfinite(x) == "NaN at [0, 2], 3 of 6 values"


def test_an_order_of_the_same_shape_must_be_decisively_nearer(rng):
    right = rng.standard_normal((2, 5, 5))
    assert find_order(right, right) is None
    moved = right.swapaxes(1, 2)
    found = find_order(moved, right)
    assert found is not None and np.array_equal(found.array, right) and found.harmless
    near = right + right.swapaxes(1, 2) + 0.05 * rng.standard_normal(right.shape)
    assert find_order(near + 0.3 * rng.standard_normal(right.shape), near) is None
    half = near.swapaxes(1, 2) + 0.5 * (near - near.swapaxes(1, 2))  # half as far in another order
    assert find_order(half, near) is None


@pytest.mark.parametrize("unit", [2.0**-12, 1.0, 2.0**12])
def test_factors_and_constants_are_relative_to_the_largest_value(unit, rng):
    """A relation does not depend on the unit of the numbers, nor do its limits."""
    right = unit * rng.standard_normal((1, 3, 4, 4))
    largest = np.abs(right).max()
    for by, seen in ((0.9, False), (1.1, True)):
        apart = by * CLOSE
        offset = largest * apart * np.array([1.0, -1.0, 0.5])[:, None, None]
        moved = [layout.text for layout in _by_channel(right + offset, right)]
        assert bool(moved) == seen, by
        for sign in (1.0, -1.0):
            gain = 1.0 + sign * apart * np.array([0.5, 1.0, 0.25])[:, None, None]
            scaled = [layout.text for layout in _by_channel(gain * right, right)]
            assert bool(scaled) == seen, (by, sign)
        spread = 2.0 + 2.0 * apart * np.array([-1.0, 0.0, 0.0])[:, None, None]
        (factors,) = [layout.text for layout in _by_channel(spread * right, right)]
        assert factors.startswith("each channel" if seen else "scaled and shifted"), by
        places = largest * apart * np.array([0.0, 1.0, 0.0])[:, None, None]
        (constants,) = [layout.text for layout in _by_channel(2.0 * right + places, right)]
        assert constants.startswith("each channel" if seen else "scaled and shifted"), by


def test_a_factor_of_one_is_no_scale(rng):
    right = rng.standard_normal((2, 3))
    assert [layout.text for layout in _scaled(1.000004 * right, right)] == []
    assert [layout.text for layout in _scaled(1.00006 * right, right)] == ["scaled by 1.0001"]
    for apart, text in ((0.9e-4, "sign reversed"), (1.1e-4, "scaled by -1.0001")):
        assert [layout.text for layout in _scaled(-(1.0 + apart) * right, right)] == [text]
    assert [*_scaled(right, 0.0 * right)] == [*_scaled(right, right[:1])] == []
    first, second = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert [*_scaled(first, second)] == []  # no part of one is along the other


def test_ranges_of_pixels_are_nearly_kept(rng):
    right = np.clip(rng.standard_normal((1, 3, 4, 4)), -1.0, 1.0)
    spike = np.zeros_like(right)
    spike[0, 0, 0, 0] = 1.0
    for factor, constant in ((0.5, 0.5), (2.0, -1.0), (127.5, 127.5)):
        for by, number in ((0.9e-3, 1), (1.1e-3, 0)):
            got = factor * (right + by * spike) + constant
            assert len([*_ranges(got, right)]) == number
    assert [*_ranges(right[:, :2], right)] == []


def test_zeros_in_front_of_tokens(rng):
    right = rng.standard_normal((2, 4, 6))
    right[:, 1, 4:] = 0.0
    right[:, 2, 5:] = 0.0
    right[:, 3] = 0.0
    got = right.copy()
    got[:, 1], got[:, 2] = np.roll(right[:, 1], 2, axis=1), np.roll(right[:, 2], 1, axis=1)
    found = recognise(got, right, TINY)
    assert found is not None and np.array_equal(found.array, right)
    assert found.text == "the zeros of tokens [1:3] are in front instead of behind"
    full = rng.standard_normal((2, 4, 6))
    assert [*_zeros_in_front(full, full)] == [] and [*_zeros_in_front(got, full[:1])] == []
    assert [*_zeros_in_front(got[0], right[0])] == []
