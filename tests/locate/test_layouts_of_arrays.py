"""Arrays in another order, range or scale: what is recognised, and what is nearly it and is not."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.locate.recorded.layouts import (
    CLOSE,
    HEADS,
    LEAST_OF_CHANNEL,
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


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def words(got, right, close=TINY):
    found = recognise(got, right, close)
    return "" if found is None else found.text


IMAGES, ONE, TOKENS = normal(0, 2, 4, 6, 6), normal(3, 1, 3, 4, 4), normal(1, 2, 6, 8)
SPLIT = normal(2, 2, 4, 6, 3)
MERGED = SPLIT.transpose(0, 2, 1, 3).reshape(2, 6, 12)
GAINS = np.array([2.0, 3.0, 0.5])[:, None, None]
ENDING = TOKENS * (np.arange(8) < np.array([8, 6, 7, 0, 8, 8])[:, None])
IN_FRONT = np.stack([np.roll(ENDING[:, i], n, 1) for i, n in enumerate((0, 2, 1, 0, 0, 0))], 1)
PARTS = "parts concatenated in the other order:"
TIMES = np.full(2, 751.121)
RELATED = {
    "equal after transpose 0,2,3,1": (IMAGES.transpose(0, 2, 3, 1), IMAGES),
    "equal after transpose 0,1,3,2": (IMAGES.transpose(0, 1, 3, 2), IMAGES),
    "equal after reshape from (8, 6, 6)": (IMAGES.reshape(8, 6, 6), IMAGES),
    "batch halves swapped": (IMAGES[::-1], IMAGES),
    f"{PARTS} channels in the order [3:, :3]": (np.roll(IMAGES, -3, axis=1), IMAGES),
    f"{PARTS} channels in the order [5:, :5]": (np.roll(TOKENS, -5, axis=2), TOKENS),
    f"{PARTS} tokens in the order [1:, :1]": (np.roll(TOKENS, -1, axis=1), TOKENS),
    "the zeros of tokens [1:3] are in front instead of behind": (IN_FRONT, ENDING),
    "axis 1 reversed": (TOKENS[:, ::-1], TOKENS),
    "2 heads of width 6 instead of 4 of 3": (
        MERGED.reshape(2, 6, 2, 6).transpose(0, 2, 1, 3),
        SPLIT,
    ),
    "heads permuted: split as (heads, l) instead of (l, heads)": (
        SPLIT.transpose(0, 2, 1, 3).reshape(SPLIT.shape),
        SPLIT,
    ),
    "pixels in [0, 1] instead of [-1, 1]: 0.5 x + 0.5": (0.5 * IMAGES + 0.5, IMAGES),
    "pixels in [-1, 1] instead of [0, 1]: 2 x - 1": (2.0 * IMAGES - 1.0, IMAGES),
    "pixels from 0 to 255 instead of [-1, 1]: 127.5 x + 127.5": (127.5 * IMAGES + 127.5, IMAGES),
    "sign reversed": (-IMAGES, IMAGES),
    "scaled by -1.0002": (-1.0002 * IMAGES, IMAGES),
    "scaled by 1.5": (1.5 * IMAGES, IMAGES),
    "scaled by 0.5": (0.5 * IMAGES, IMAGES),
    "scaled by 0.14286 = 1/7": (IMAGES / 7.0, IMAGES),
    "scaled by 5.49": (IMAGES / 0.18215, IMAGES),
    "shifted by 0.25": (IMAGES + 0.25, IMAGES),
    "scaled by 0.9": (0.9 * TIMES, TIMES),
    "shifted by 20": (TIMES + 20.0, TIMES),
    "scaled and shifted: 2 x + 0.75": (2.0 * IMAGES + 0.75, IMAGES),
    "scaled and shifted: 2 x - 0.75": (2.0 * IMAGES - 0.75, IMAGES),
    "each channel is scaled and shifted: channel 0 is 2 x + 0, the factors are from 0.5 to 3": (
        GAINS * ONE,
        ONE,
    ),
}


@pytest.mark.parametrize("text", RELATED)
def test_what_is_recognised_restores_the_array(text):
    got, right = RELATED[text]
    found = recognise(got, right, TINY)
    assert found is not None and found.text.replace("- 0,", "+ 0,") == text
    assert relative_error(found.array, right) <= TINY
    assert found.harmless == text.startswith("equal after")
    assert recognise(got + np.where(got == got.flat[1], np.nan, 0.0), right, TINY) is None
    noisy = got + 0.1 * np.abs(got).max() * normal(9, *got.shape)
    assert not words(noisy, right)


@pytest.mark.parametrize("heads", HEADS)
def test_numbers_of_heads_that_networks_have(heads):
    right = normal(0, 1, 5, 7 * heads)
    parts = right.reshape(1, 5, heads, 7)
    inner, outer = (parts.swapaxes(*axes).reshape(right.shape) for axes in ((2, 3), (1, 2)))
    assert words(inner, right) == f"heads permuted: (d/heads, heads) for {heads} heads"
    text = f"heads permuted: (heads, l) instead of (l, heads) for {heads} heads"
    assert words(outer, right) == text


@pytest.mark.parametrize(("name", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_numbers_of_a_narrower_format(name, digits):
    right = normal(0, LEAST_OF_CHANNEL)
    mantissa, exponent = np.frexp(right)
    narrow = np.ldexp(np.rint(mantissa * 2.0**digits) / 2.0**digits, exponent)
    beside = np.ldexp((np.rint(mantissa * 2.0**digits) + 2) / 2.0**digits, exponent)
    assert words(narrow, right) == f"rounded to {name}"
    assert words(narrow[1:], right[1:]) == ""  # too few to tell
    half = np.arange(len(right)) % 2 == 0  # each number is narrow, and half of them are right
    for other in (beside, np.where(half, narrow, beside), narrow * (1 + 2.0**-16)):
        assert words(other, right) == ""


PIXELS = np.clip(ONE, -1.0, 1.0)
SPIKE = np.where(np.arange(48).reshape(ONE.shape) == 0, 1.0, 0.0)
NOT_RELATED = {
    "the array itself": (IMAGES, IMAGES, TINY),
    "other numbers": (normal(7, *IMAGES.shape), IMAGES, CLOSE),
    "no numbers": (np.zeros(0), np.zeros(0), TINY),
    "zeros where zeros belong": (np.zeros(3), np.zeros(3), TINY),
    "one number": (np.array([-3.0]), np.array([0.0]), TINY),
    "a third of a batch": (np.roll(normal(4, 3, 5, 2), 1, axis=0), normal(4, 3, 5, 2), TINY),
    "numbers that are nearly scaled": (1.5 * ONE + CLOSE * np.sin(9 * ONE), ONE, 1e-6),
    "an error below what is allowed": (ONE + 0.01 * normal(5, *ONE.shape), ONE, 1.0),
    "a factor of one": (1.000004 * TOKENS, TOKENS, TINY),
    "pixels with a spike": (0.5 * (PIXELS + 1.1e-3 * SPIKE) + 0.5, PIXELS, 1e-4),
    "channels of few numbers": (GAINS * ONE[..., :3], ONE[..., :3], TINY),
    "factors that are nearly one": (
        ONE * (1.0 + 0.4 * CLOSE * np.arange(3)[:, None, None]),
        ONE,
        TINY,
    ),
}


@pytest.mark.parametrize("name", NOT_RELATED)
def test_what_is_no_relation(name):
    got, right, close = NOT_RELATED[name]
    assert recognise(got, right, close) is None


@pytest.mark.parametrize(("by", "seen"), [(0.9, False), (1.1, True)])
def test_constants_of_channels_are_relative_to_the_largest_value(by, seen):
    places = by * CLOSE * np.abs(ONE).max() * np.array([0.0, 1.0, 0.0])[:, None, None]
    found = words(2.0 * ONE + places, ONE)
    assert found.startswith("each channel is" if seen else "scaled and shifted")


def test_a_later_relation_must_be_clearly_better():
    """Both an offset of pixels and a factor leave rounding: the usual one is named."""
    right = np.sign(ONE)
    assert words(-right, right) == "sign reversed"
    assert words(0.5 * right + 0.5, right, CLOSE).startswith("pixels in [0, 1]")
    assert words(0.0 * ONE, ONE) == "all zeros"


# -- orders in memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3, 2, 5), (2, 3, 2, 5), (2, 4, 3, 3), (3, 6, 1, 2)])
def test_pixels_in_a_row_with_their_channels_last(shape):
    x = normal(0, *shape)
    n, c, h, w = shape
    for flat in ((n, h * w, c), (n * h * w, c)):
        last = x.transpose(0, 2, 3, 1).reshape(flat)
        found = [layout for layout in restore_order(last, shape) if "0,2,3,1 and" in layout.text]
        assert [layout.harmless for layout in found] == [True]
        assert np.array_equal(found[0].array, x) and np.array_equal(find_order(last, x).array, x)
    assert find_order(x, x[..., :-1]) is None


@pytest.mark.parametrize(("left", "nearer"), [(0.0, True), (1.0, True), (1.0 + 1e-9, False)])
def test_another_order_of_the_same_shape_leaves_a_quarter_of_the_error(left, nearer):
    right = np.array([[0.0, 3.0], [0.0, 8.0]])
    got = (right + np.array([[0.0, left], [0.0, 0.0]])).T
    assert relative_error(got, right) < 1.0
    assert (find_order(got, right) is not None) == nearer
    assert find_order(right, right) is None


@pytest.mark.parametrize("axes", [(0, 2, 1), (1, 0, 2), (2, 1, 0)])
def test_differences_of_bytes_do_not_wrap_around(axes):
    right = np.random.default_rng(0).integers(0, 256, (4, 4, 4)).astype(np.uint8)
    for expected in (right, right.astype(np.int64)):
        found = find_order(right.transpose(axes), expected)
        assert found is not None and np.array_equal(found.array, right)


def test_heads_are_split_again_if_their_numbers_allow_it():
    two = MERGED.reshape(2, 6, 2, 6).transpose(0, 2, 1, 3)
    assert np.array_equal(resplit_heads(two, SPLIT.shape), SPLIT)
    for got, shape in ((SPLIT, SPLIT.shape), (MERGED, SPLIT.shape), (two, (2, 4, 7, 3))):
        assert resplit_heads(got, shape) is None


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "right", "error"),
    [
        (np.array([2.0, -4.0]), np.array([1.0, -4.0]), 0.25),
        (np.zeros((1, 2)), np.zeros(2), np.inf),
        (np.zeros(0), np.zeros(0), 0.0),
        (np.zeros(2), np.zeros(2), 0.0),
        (np.uint8([250]), np.uint8([4]), 246 / 4),
        (np.float16([6e4]), np.float16([-6e4]), 2.0),
        (np.array([1e308]), np.array([-1e308]), np.inf),
        (np.array([np.nan]), np.array([np.nan]), np.inf),
        (np.array([np.inf]), np.array([np.inf]), np.inf),
    ],
)
def test_errors_are_relative_to_the_largest_value_and_raise_no_warning(got, right, error):
    with np.errstate(all="raise"):
        assert relative_error(got, right) == error


def test_largest_values_and_what_shrinks():
    assert largest_value(np.zeros((0, 3))) == 0.0 and largest_value(np.array([-3.0, 2.0])) == 3.0
    assert shrinkage(np.array([6.0, 1.0]), np.array([-2.0])) == 3.0
    assert shrinkage(np.ones(2), np.zeros(2)) == 1.0


def test_the_first_value_that_is_not_finite():
    x = np.zeros((2, 3))
    assert first_nonfinite(x) == ""
    x[1, 1], x[1, 2] = np.inf, np.nan
    assert first_nonfinite(x) == "infinity at [1, 1], 2 of 6 values"
    x[0, 2] = np.nan
    assert first_nonfinite(x) == "NaN at [0, 2], 3 of 6 values"
