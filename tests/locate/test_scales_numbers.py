"""Scales of quantized weights that a port forgets, at the ends of what tells them."""

from __future__ import annotations

import numpy as np
import pytest
from fault_calls import normal, point_of, replay_of

from ldmref.locate.faults import scales
from ldmref.locate.law import GAIN


def scaled(recorded, computed, bias=None, kind="linear", role=""):
    point = point_of("x", role, computed, recorded, kind)
    point.call.parameters = {} if bias is None else {"bias": bias}
    return {
        "rows" if words.startswith("the rows") else "all": y
        for words, y in scales.forgotten_scale(replay_of(), point)
    }


def by_axis(x, kind):
    return x[:, None, None] if kind == "conv2d" else x


PRODUCTS = {
    "linear": normal(0, 2, 8, 3),
    "conv2d": normal(0, 2, 3, 2, 4),
}
BIAS = np.array([0.5, 0.0, -2.0])
GAINS = np.array([2.0, -4.0, 0.5])


@pytest.mark.parametrize("kind", PRODUCTS)
def test_one_scale_is_told_by_the_bias_that_it_leaves(kind):
    product, bias = PRODUCTS[kind], by_axis(BIAS, kind)
    found = scaled(-0.25 * product + bias, product + bias, BIAS, kind)
    assert [*found] == ["all"]
    np.testing.assert_allclose(found["all"], -0.25 * product + bias, atol=1e-12)
    assert not scaled(-0.25 * product, product, 0.0 * BIAS, kind)
    assert not scaled(-0.25 * product, product, None, kind)
    assert not scaled(0.0 * product + bias, product + bias, BIAS, kind)  # it is left out


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("biased", [False, True])
def test_scales_of_rows(kind, biased):
    product, bias, gains = PRODUCTS[kind], by_axis(BIAS, kind) * biased, by_axis(GAINS, kind)
    found = scaled(gains * product + bias, product + bias, BIAS if biased else None, kind)
    assert [*found] == (["all", "rows"] if biased else ["rows"])
    np.testing.assert_allclose(found["rows"], gains * product + bias, atol=1e-12)
    zero = gains.copy()
    zero.flat[1] = 0.0  # a row that is missing has no scale
    assert "rows" not in scaled(zero * product + bias, product + bias, BIAS * biased, kind)


@pytest.mark.parametrize(("numbers", "told"), [(15, False), (16, True), (17, True)])
@pytest.mark.parametrize("kind", PRODUCTS)
def test_rows_need_sixteen_numbers(kind, numbers, told):
    shape = (numbers, 3) if kind == "linear" else (1, 3, numbers, 1)
    product = normal(1, *shape)
    assert bool(scaled(by_axis(GAINS, kind) * product, product, None, kind)) == told


@pytest.mark.parametrize(("ratio", "told"), [(0.9 * GAIN, False), (1.1 * GAIN, True)])
def test_scales_of_rows_leave_a_quarter_of_what_one_scale_leaves(ratio, told):
    """One scale errs by d in each row, and those of rows by a noise that no scale explains."""
    ones = np.ones(32)
    ones[16:] = -1.0
    signs = np.tile([1.0, -1.0], 16)  # orthogonal to them
    product = np.stack([ones, ones], axis=1)
    noise = 1e-3
    gap = (ratio - 1.0) * noise
    recorded = product * [1.0 + gap, 1.0 - gap] + noise * signs[:, None]
    assert ("rows" in scaled(recorded, product)) == told


@pytest.mark.parametrize("change", [
    {"role": "input"}, {"kind": "attention"}, {"kind": "grouped_conv2d"},
    {"recorded": normal(2, 2, 8, 4)}, {"recorded": normal(2, 16, 3)},
    {"computed": np.zeros((2, 8, 3))},
])  # fmt: skip
def test_other_layers_have_no_scales(change):
    product = PRODUCTS["linear"]
    values = {"recorded": GAINS * product, "computed": product}
    assert scaled(**values)
    assert not scaled(**values | change)


def test_a_row_of_zeros_has_no_scale():
    product = PRODUCTS["linear"].copy()
    product[..., 1] = 0.0
    with np.errstate(all="raise"):
        found = scaled(GAINS * product + BIAS, product + BIAS, BIAS)
    assert [*found] == ["all"]


def test_scales_of_numbers_in_float32_are_found_in_float64():
    product = PRODUCTS["linear"].astype(np.float32)
    found = scaled(np.float32(4.0) * product, product * np.float32(1.0), None)
    assert not found
    found = scaled((GAINS * product).astype(np.float32), product)
    assert found["rows"].dtype == np.float64
