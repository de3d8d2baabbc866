"""The comparison of a recorded array: what its row holds, by its numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from host_units import context_of, entry_of, normal, recorded_of

CALL = "sampler.000"
UNITS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
RIGHT = np.array([1.0, -0.5, 0.25])
RANDOM = normal(0, 3, 5)


def judged(got, expected=RIGHT, dtype="float32", **more):
    context = context_of({CALL: {"output": got}}, dtype=dtype)
    return context.judge(recorded_of(context, CALL), "kind", expected, **more)


def off(by, right=RIGHT):
    found = right.copy()
    found.flat[1] += by
    return found


@pytest.mark.parametrize(("dtype", "unit"), UNITS.items())
def test_what_is_allowed_follows_from_the_format_and_the_floor(dtype, unit):
    assert context_of({}, dtype=dtype).rounding == 16.0 * unit
    plain = judged(RIGHT, dtype=dtype)
    assert (plain.allowed, plain.floor) == (16.0 * unit, unit / 2.0)
    wide = judged(RIGHT, dtype=dtype, floor=3.0 * unit)
    assert (wide.allowed, wide.floor) == (48.0 * unit, 3.0 * unit)
    small = judged(RIGHT, dtype=dtype, least=unit)
    assert small.allowed == 8.0 * unit  # half a unit is the rounding of the result alone
    least = judged(RIGHT, dtype=dtype, least=0.3)
    assert least.allowed == 0.3
    both = judged(RIGHT, dtype=dtype, least=unit, floor=2.0 * unit)
    assert both.allowed == 32.0 * unit


@pytest.mark.parametrize(("by", "verdict"), [(0.125, "equal"), (0.1875, "differs")])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_error_of_what_is_allowed_is_equal(by, verdict, sign):
    row = judged(off(sign * by), least=0.125)
    assert (row.verdict, row.error) == (verdict, by)


def test_a_row_names_the_call_and_the_kind():
    for got, verdict in ((RIGHT, "equal"), (off(1.0), "differs"), (off(math.nan), "differs")):
        row = judged(got, segment="wire")
        assert (row.call, row.layer, row.kind, row.segment) == (CALL, "", "kind", "wire")
        assert row.verdict == verdict
    row = judged(RIGHT, off(math.nan), segment="wire")
    assert (row.call, row.layer, row.kind, row.segment) == (CALL, "", "kind", "wire")
    assert row.verdict == "not judged"


def test_what_is_not_finite():
    row = judged(off(math.nan))
    assert row.error == math.inf and "NaN" in row.note and row.verdict == "differs"
    assert not row.cause and row.explained is None
    assert judged(RIGHT).note == judged(off(1.0)).note == ""
    both = judged(off(math.inf), off(math.inf))
    assert "[1]" in both.note and "upstream" in both.note
    before = judged(RIGHT, off(math.inf))
    assert before.note and "upstream" not in before.note


def test_variants_that_do_not_apply_are_left_out():
    got = normal(1, 3, 5)
    variants = [
        ("none", lambda: None),
        ("shape", got[:2]),
        ("far", RANDOM * 1.5 + 2.0),
        ("right", lambda: got),
    ]
    row = judged(got, RANDOM, variants=iter(variants))
    assert (row.cause, row.explained) == ("right", 0.0)
    row = judged(got, RANDOM, variants=variants[:3])
    assert (row.verdict, row.cause, row.explained) == ("differs", "", None)


def test_a_variant_may_leave_what_is_allowed():
    got = normal(1, 3, 5)
    largest = np.abs(got).max()
    for left, cause in ((0.09, "near"), (0.11, "")):
        near = got.copy()
        near[2, 2] += left * largest
        scale = np.abs(near).max()
        row = judged(got, RANDOM, least=0.1 * largest / scale, variants=[("near", near)])
        assert row.cause == cause
        if cause:
            assert row.explained == pytest.approx(left * largest / scale)


@pytest.mark.parametrize(
    ("floor", "got", "variants", "verdict"),
    [
        (math.inf, RANDOM + 1.0, [], "not judged"),
        (math.inf, 2.0 * RANDOM, [], "not judged"),  # which a finite floor would explain
        (math.inf, RANDOM + 1.0, [("it", RANDOM + 1.0)], "differs"),
        (math.inf, RANDOM, [], "equal"),
        (math.inf, RANDOM * math.nan, [], "differs"),
        (math.nan, RANDOM + 1.0, [], "not judged"),
        (1e-6, RANDOM + 1.0, [], "differs"),
        (1e-6, 2.0 * RANDOM, [], "differs"),
    ],
)
def test_an_overflow_of_the_reference_leaves_only_known_causes(floor, got, variants, verdict):
    row = judged(got, RANDOM, dtype="float16", floor=floor, variants=variants)
    assert row.verdict == verdict
    assert ("float16" in row.note) == (verdict == "not judged")
    if not math.isfinite(floor) and verdict == "equal":
        assert row.floor == UNITS["float16"] and row.allowed == 16.0 * UNITS["float16"]


def test_relations_of_arrays_are_causes_unless_they_are_another_order():
    scaled = judged(2.0 * RANDOM, RANDOM)
    assert (scaled.verdict, scaled.note) == ("differs", "") and "2" in scaled.cause
    assert scaled.explained == pytest.approx(0.0, abs=1e-9)
    known = judged(2.0 * RANDOM, RANDOM, variants=[("named", 2.0 * RANDOM)])
    assert known.cause == "named"
    turned = judged(RANDOM.T, RANDOM)
    assert (turned.verdict, turned.error, turned.cause) == ("equal", 0.0, "")
    assert "transpose" in turned.note
    rounded = RANDOM.T.copy()
    rounded[1, 1] += 1e-7
    row = judged(rounded, RANDOM)
    assert row.verdict == "equal"
    assert row.error == pytest.approx(1e-7 / np.abs(RANDOM).max(), rel=1e-6)


@pytest.mark.parametrize(
    ("dtype", "least", "apart", "verdict"),
    [
        ("float32", 1e-12, 0.9e-6, "equal"),
        ("float32", 1e-12, 1.1e-6, "differs"),
        ("float32", 1e-4, 0.9e-4, "equal"),
        ("float32", 1e-4, 1.1e-4, "differs"),
    ],
)
def test_another_order_may_round(dtype, least, apart, verdict):
    """By what is allowed, and at least by a millionth."""
    got = RANDOM.T.copy()
    place = np.unravel_index(np.argmin(np.abs(got)), got.shape)
    got[place] += apart * np.abs(RANDOM).max()
    assert judged(got, RANDOM, dtype, least=least).verdict == verdict


def test_a_row_that_is_not_judged_has_a_reason():
    context = context_of({CALL: {"output": RIGHT}})
    row = context.not_judged(entry_of(context, CALL), "kind", "why")
    assert (row.call, row.layer, row.kind, row.note) == (CALL, "", "kind", "why")
    assert (row.verdict, row.error) == ("not judged", 0.0)
