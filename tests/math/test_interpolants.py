"""Data and noise of any path: against mpmath, against numerical derivatives, and at its ends."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from ldmref import math as lm
from ldmref.testing import strategies

mpmath.mp.dps = 50
PATHS = {  # name -> (a(t), b(t)); times from 0 (data) to 1 (noise)
    "straight": (lambda t: 1 - t, lambda t: t),
    "circle": (lambda t: mpmath.cos(mpmath.pi * t / 2), lambda t: mpmath.sin(mpmath.pi * t / 2)),
    "variance exploding": (lambda t: mpf(1), lambda t: 9 * t),
    "square": (lambda t: (1 - t) ** 2, lambda t: t**2),
}
TIMES = st.sampled_from([0.03125, 0.25, 0.5, 0.75, 0.96875])
COEFFICIENTS = st.sampled_from([0.0, 2.0**-10, 0.25, 1.0, 3.0])


@given(data=st.data(), a=COEFFICIENTS, b=COEFFICIENTS, falls=COEFFICIENTS, rises=COEFFICIENTS)
def test_pair_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data, **drawn):
    a, b, falls, rises = (drawn[name] for name in ("a", "b", "falls", "rises"))
    turn = mpf(a) * mpf(rises) + mpf(b) * mpf(falls)
    if turn < mpf(2) ** -12:
        return
    x, velocity = data.draw(strategies.paired(2, xp, dtype))
    hosts = [[mpf(v) for v in to_numpy(z).ravel().tolist()] for z in (x, velocity)]
    got = lm.interpolant_pair(x, velocity, a, b, -falls, rises)
    for ours, one, other in zip(got, (rises, falls), (-b, a), strict=True):
        terms = [(one / turn * y, other / turn * v) for y, v in zip(*hosts, strict=True)]
        want = np.reshape([float(sum(pair)) for pair in terms], x.shape)
        size = np.reshape([float(sum(map(abs, pair))) for pair in terms], x.shape)
        xp_assert_close(ours, want, like=x, ulps=8, scale=size)


@pytest.mark.parametrize("name", PATHS)
@given(t=TIMES, x0=st.floats(-3, 3), eps=st.floats(-3, 3))
def test_pair_from_a_state_and_its_numerical_derivative(name, t, x0, eps):
    """Differentiate the path by mpmath; no rate is typed in."""
    a, b = PATHS[name]
    rates = [mpmath.diff(function, t) for function in (a, b)]
    x, velocity = a(t) * x0 + b(t) * eps, rates[0] * x0 + rates[1] * eps
    arrays = [np.asarray([[float(v)]]) for v in (x, velocity)]
    got = lm.interpolant_pair(*arrays, *(float(v) for v in (a(t), b(t), *rates)))
    np.testing.assert_allclose(np.ravel(got), [x0, eps], rtol=0, atol=1e-10)


def test_coefficients_of_each_example():
    """A number for each example acts on its own row."""
    x, velocity = np.random.default_rng(0).standard_normal((2, 3, 2, 2))
    t = np.asarray([0.1, 0.5, 0.9])
    got = lm.interpolant_pair(x, velocity, 1 - t, t, np.full(3, -1.0), np.ones(3))
    for i in range(3):
        row = slice(i, i + 1)
        alone = lm.interpolant_pair(x[row], velocity[row], 1 - t[i], t[i], -1.0, 1.0)
        for ours, one in zip(got, alone, strict=True):
            np.testing.assert_array_equal(ours[row], one)
    with pytest.raises(ValueError, match="a coefficient of shape"):
        lm.interpolant_pair(x, velocity, t[:2], t[:2], -1.0, 1.0)
