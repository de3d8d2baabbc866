"""Faults of functions of tensors at the ends of what they are tried for, without torch."""

from __future__ import annotations

import numpy as np
import pytest
from fault_calls import assert_same, call_of, faulty, normal

from ldmref.locate.faults import tensors
from ldmref.locate.faults.norms import EPSILONS

X = normal(0, 2, 3)


def of_number(kind, number, compute):
    return call_of(kind, compute, {"input": X}, number=number)


@pytest.mark.parametrize(("number", "is_eps"), [
    (0.0, False), (-1e-6, False), (1e-12, True), (0.0099, True), (0.01, False), (1.0, False),
])  # fmt: skip
def test_small_positive_constants_are_epsilons(number, is_eps):
    call = of_number("add_number", number, lambda input, number: input + number)
    found = faulty(tensors.other_constant, call)
    if is_eps:
        assert len(found) == len({*EPSILONS} - {number})
        assert all(text.startswith("eps") for text in found)
    else:
        expected = {
            f"{number:g} is not added": X,
            f"{number:g} is added twice": X + number + number,
            f"{number:g} is subtracted": X - number,
        }
        assert_same(found, expected)


@pytest.mark.parametrize("number", [0.0, 0.5])
def test_no_number_is_divided_by_zero(number):
    product = of_number("multiply_number", number, lambda input, number: input * number)
    quotient = of_number("divide_number", number, lambda input, number: input / number)
    factors = [*faulty(tensors.other_factor, product)]
    assert len(factors) == (4 if number else 3)
    assert any("divided" in text for text in factors) == bool(number)
    divisors = [variant.text for variant in tensors.other_divisor(quotient)]
    assert any("multiplied" in text for text in divisors) == bool(number)


def test_factors_are_named_by_their_place():
    a, b = normal(1, 2, 1, 3), normal(2, 4, 1)
    call = call_of("multiply", lambda input, b: input * b, {"input": a, "b": b})
    found = faulty(tensors.missing_factor, call)
    assert np.array_equal(found["the second factor is missing"], np.tile(a, (1, 4, 1)))
    assert np.array_equal(found["the first factor is missing"], np.tile(b, (2, 1, 3)))
    np.testing.assert_allclose(found["1 is added to the first factor"], a * b + b, atol=1e-12)
    np.testing.assert_allclose(found["1 is added to the second factor"], a * b + a, atol=1e-12)
    found["the first factor is missing"][0] = 0.0  # which changes no factor
    assert np.array_equal(call.inputs["b"], b)


def test_a_term_that_is_zero_is_left_out():
    b = np.array([[0.0, 1.0, -2.0]])
    call = call_of("subtract", lambda input, b: input - b, {"input": X, "b": b})
    expected = {
        "added instead of subtracted": X + b,
        "subtracted in the other order": b - X,
        "the second term is not subtracted": X,
    }
    assert_same(faulty(tensors.other_difference, call), expected)


@pytest.mark.parametrize(("base", "tried"), [
    (0.5, 0), (1.0, 0), (1.5, 8), (2.0, 8), (100.0, 7), (10000.0, 7), (1e6, 7), (1e7, 8),
])  # fmt: skip
def test_bases_above_one_are_exchanged(base, tried):
    call = call_of("power", lambda input, base: base**input, {"input": X}, base=base)
    found = faulty(tensors.other_base, call)
    others = {text: y for text, y in found.items() if "theta" in text}
    assert len(others) == tried
    for text, y in others.items():
        np.testing.assert_allclose(y, float(text.split()[1]) ** X)
    np.testing.assert_allclose(found["the exponent has the other sign"], base**-X)


@pytest.mark.parametrize(("shape", "expected"), [
    ((2, 3), [[0, 1], [2, 3], [4, 5]]), ((1, 4), [[0], [1], [2], [3]]),
])  # fmt: skip
def test_halves_of_one_row_of_numbers(shape, expected):
    x = np.arange(np.prod(shape)).reshape(shape)
    assert [part.tolist() for part in tensors.halves_of(x, 1)] == expected


def test_numbers_without_a_second_axis_have_no_halves():
    for x, axis in ((np.arange(4), 0), (np.arange(6).reshape(2, 3), 0), (np.float64(1.0), -1)):
        with pytest.raises(ValueError, match="last axis"):
            tensors.halves_of(np.asarray(x), axis)


@pytest.mark.parametrize(("shape", "exchanged"), [
    ((1, 1), []), ((2, 2), ["0 and 1"]), ((3, 2, 3), ["0 and 2"]), ((1, 2, 1, 2), ["1 and 3"]),
    ((2, 2, 2), ["0 and 1", "0 and 2", "1 and 2"]), ((2, 3), []),
])  # fmt: skip
def test_equal_axes_longer_than_one_are_exchanged(shape, exchanged):
    x = normal(1, *shape)
    call = call_of("axes", lambda input: input, {"input": x})
    expected = {}
    for pair in exchanged:
        i, j = (int(axis) for axis in pair.split(" and "))
        expected[f"axes {pair} are exchanged"] = np.swapaxes(x, i, j)
    assert_same(faulty(tensors.other_axes, call), expected)


@pytest.mark.parametrize(("kind", "right", "other"), [
    ("sine", np.sin, np.cos), ("cosine", np.cos, np.sin),
])  # fmt: skip
def test_sines_turn_the_other_way_and_cosines_do_not(kind, right, other):
    call = call_of(kind, lambda input: right(input), {"input": X})
    found = faulty(tensors.other_angles, call)
    assert np.array_equal(found["sine and cosine are exchanged"], other(X))
    assert ("the rotation has the other direction" in found) == (kind == "sine")
    assert len(found) == (4 if kind == "sine" else 3)
