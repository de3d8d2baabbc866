"""Helpers for coefficients that are scalars or one number per example."""

import numpy as np
import pytest

from ldmref import math as lm
from ldmref.math.arrays import along, amplitudes, log, root


def test_along_reshapes_and_casts_to_the_data(xp, dtype):
    x = xp.ones((2, 3, 4), dtype=getattr(xp, dtype))
    each = along(xp.asarray([1.0, 2.0], dtype=xp.float64), x)
    assert each.shape == (2, 1, 1) and each.dtype == x.dtype
    assert along(xp.asarray([1.0]), x).shape == (1, 1, 1)
    alone = along(xp.asarray(2.0, dtype=xp.float64), x)
    assert alone.shape == () and alone.dtype == x.dtype


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2.0), np.float64(2.0)])
def test_along_makes_python_floats_of_scalars(number):
    coefficient = along(number, np.ones((2, 3), np.float32))
    assert type(coefficient) is float and coefficient == 2.0


@pytest.mark.parametrize("shape", [(3,), (2, 1), (1, 2)])
def test_along_refuses_another_length_and_more_axes(xp, shape):
    with pytest.raises(ValueError, match="does not fit"):
        along(xp.ones(shape), xp.ones((2, 3)))


def test_roots_and_logarithms_of_scalars_are_python_floats():
    assert type(root(np.float64(2.0))) is float and root(2.0) == 2.0**0.5
    assert type(log(np.float32(1.0))) is float and log(np.e) == 1.0


def test_roots_and_logarithms_of_arrays_keep_library_and_dtype(xp, xp_assert_close):
    a = xp.asarray([1.0, 4.0], dtype=xp.float32)
    xp_assert_close(root(a), xp.asarray([1.0, 2.0], dtype=xp.float32), ulps=0)
    xp_assert_close(log(a), np.log([1.0, 4.0]), like=a, ulps=2)


@pytest.mark.parametrize("wrong", [2.0, -0.5, float("nan")])
def test_a_scalar_alpha_bar_out_of_range_is_named(wrong):
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match=rf"alpha_bar must be in \[0, 1\], not {wrong}"):
        amplitudes(wrong, x)
    with pytest.raises(ValueError, match="alpha_bar must be in"):
        lm.q_sample(x, wrong, x)


def test_the_ends_of_the_range_belong_to_it():
    assert amplitudes(0, np.ones(1)) == (0.0, 1.0) and amplitudes(1.0, np.ones(1)) == (1.0, 0.0)


def test_errors_of_scalars_point_to_the_checked_functions():
    with pytest.raises(ValueError, match=r"square root of -1\.0: .* ldmref\.math\.checked"):
        lm.q_step(np.ones(2), 2.0, np.ones(2))
    with pytest.raises(ValueError, match=r"logarithm of 0\.0: .* ldmref\.math\.checked"):
        log(0.0)
    assert root(0.0) == 0.0 == log(1.0)
