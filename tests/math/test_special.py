"""erfc and log_ndtr against mpmath, from the centre to both ends of the floating range."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from ldmref import math as lm

mpmath.mp.dps = 50
HALF = [*np.linspace(0, 30, 361), *10.0 ** np.arange(-30, 0.5), *np.linspace(6.2, 6.4, 21)]
POINTS = np.asarray([-x for x in HALF] + HALF, np.float32).astype(np.float64)
# where z is capped, and where the square of x is the last that is finite
FAR = {"float32": [-100.0, -1e8, -1.2e19, -1.5e19, -2.5e19], "float64": [-1e8, -1e154, -1.8e154]}


def erfc(x):
    return mpmath.erfc(mpf(x))


def log_ndtr(x):
    half = mpmath.erfc(mpf(abs(x)) / mpmath.sqrt(2)) / 2
    if half == 0:  # the asymptotic series, whose first term is enough so far out
        return -(mpf(x) ** 2) / 2 - mpmath.log(-mpf(x) * mpmath.sqrt(2 * mpmath.pi))
    return mpmath.log(half) if x < 0 else mpmath.log1p(-half)


ERFC = np.asarray([float(erfc(x)) for x in POINTS])
LOG_NDTR = np.asarray([float(log_ndtr(x)) for x in POINTS])


def test_erfc_equals_mpmath(xp, dtype, xp_assert_close):
    seen = np.finfo(dtype).tiny < ERFC
    x = xp.asarray(POINTS[seen], dtype=getattr(xp, dtype))
    xp_assert_close(lm.erfc(x), ERFC[seen], like=x, ulps=6)


def test_log_ndtr_equals_mpmath(xp, dtype, xp_assert_close):
    seen = np.finfo(dtype).tiny < -LOG_NDTR
    x = xp.asarray(POINTS[seen], dtype=getattr(xp, dtype))
    xp_assert_close(lm.log_ndtr(x), LOG_NDTR[seen], like=x, ulps=6)


def test_log_ndtr_equals_mpmath_as_far_as_it_is_finite(xp, dtype, xp_assert_close, to_numpy):
    x = xp.asarray(FAR[dtype], dtype=getattr(xp, dtype))
    exact = np.asarray([float(log_ndtr(float(v))) for v in to_numpy(x)])
    xp_assert_close(lm.log_ndtr(x), exact, like=x, ulps=6)


@given(x=st.floats(-9, 9, width=32))
def test_any_number_equals_mpmath(xp, dtype, xp_assert_close, x):
    array = xp.asarray([[x]], dtype=getattr(xp, dtype))
    xp_assert_close(lm.erfc(array), np.asarray([[float(erfc(x))]]), like=array, ulps=6)
    xp_assert_close(lm.log_ndtr(array), np.asarray([[float(log_ndtr(x))]]), like=array, ulps=6)


def test_ends_of_the_line(xp, dtype, to_numpy):
    ends = [float("inf"), 1e30, 30.0, 0.0, -0.0, -30.0, -1e30, float("-inf"), float("nan")]
    x = xp.asarray(ends, dtype=getattr(xp, dtype))
    with np.errstate(over="ignore"):
        got = to_numpy(lm.erfc(x)), to_numpy(lm.log_ndtr(x[:-2])), to_numpy(lm.log_ndtr(x[-2:]))
    np.testing.assert_array_equal(got[0], [0, 0, 0, 1, 1, 2, 2, 2, np.nan])
    np.testing.assert_array_equal(got[1][:2], [0, 0])
    np.testing.assert_array_equal(got[2], [-np.inf, np.nan])
    assert got[1][3] == got[1][4] and abs(got[1][3] + np.log(2)) < 1e-6


@pytest.mark.parametrize("name", ["erfc", "log_ndtr"])
def test_slope_is_the_bell_curve(name):
    torch = pytest.importorskip("torch")
    x = torch.tensor([-20.0, -1.0, 0.0, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    value = getattr(lm, name)(x)
    value.sum().backward()
    at = x.detach().numpy()
    value = value.detach().numpy()
    if name == "erfc":
        exact = -2 / np.sqrt(np.pi) * np.exp(-at * at)
    else:
        exact = np.exp(-0.5 * at * at - value) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(x.grad.numpy(), exact, rtol=1e-12)
