"""Activations against mpmath, torch's own, and the bounds that their docstrings state."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from ldmref import math as lm
from ldmref.testing import strategies

mpmath.mp.dps = 50


def sigmoid_mp(x):
    return 1 / (1 + mpmath.exp(-x))


def u(x):
    return mpmath.sqrt(2 / mpmath.pi) * (x + mpf("0.044715") * x**3)


def below(x):
    return max(-x, mpf(0))


# name -> (definition, ulps that the docstring allows at x)
DEFINITIONS = {
    "sigmoid": (sigmoid_mp, lambda x: 4 + below(x)),
    "silu": (lambda x: x * sigmoid_mp(x), lambda x: 5 + below(x)),
    "gelu": (lambda x: x * mpmath.ncdf(x), lambda x: 12 + 2 * x * x),
    "gelu_tanh": (lambda x: x / 2 * (1 + mpmath.tanh(u(x))), lambda x: 4 * (4 + abs(u(x)))),
    "quick_gelu": (lambda x: x * sigmoid_mp(mpf("1.702") * x), lambda x: 6 + 4 * below(x)),
}


@pytest.mark.parametrize("name", DEFINITIONS)
@given(data=st.data())
def test_activations_equal_mpmath_within_their_stated_accuracy(
    xp, dtype, xp_assert_close, to_numpy, name, data
):
    definition, allowed = DEFINITIONS[name]
    x = data.draw(strategies.arrays((4,), xp, dtype))
    exact = [mpf(float(v)) for v in to_numpy(x)]
    want = np.asarray([float(definition(v)) for v in exact])
    scale = abs(want) * [float(allowed(v)) for v in exact]
    xp_assert_close(getattr(lm, name)(x), want, like=x, ulps=1, scale=scale)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_nothing_overflows_and_far_away_they_are_steps(xp, dtype, to_numpy, name):
    x = xp.asarray([-1e4, -200.0, 0.0, 200.0, 1e4], dtype=getattr(xp, dtype))
    step = [0, 0, 0.5, 1, 1] if name == "sigmoid" else [0, 0, 0, 200, 1e4]
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_allclose(to_numpy(getattr(lm, name)(x)), step, atol=1e-30)


@given(data=st.data())
def test_reflections(xp, dtype, xp_assert_close, data):
    x = data.draw(strategies.arrays((5,), xp, dtype))
    xp_assert_close(lm.sigmoid(x) + lm.sigmoid(-x), xp.ones_like(x), ulps=4)
    for function in (lm.silu, lm.gelu, lm.gelu_tanh, lm.quick_gelu):
        xp_assert_close(function(x) - function(-x), x, ulps=8, scale=1.0)


def test_least_values_and_distances_between_the_gelus_are_as_stated():
    x = np.linspace(-12, 12, 240_001)
    assert -0.2785 < lm.silu(x).min() < -0.2784
    assert -0.17 < lm.gelu(x).min() < -0.1699
    tanh, quick = (abs(f(x) - lm.gelu(x)).max() for f in (lm.gelu_tanh, lm.quick_gelu))
    assert 4.7e-4 < tanh < 4.8e-4
    assert 0.0202 < quick < 0.0204


def test_activations_and_their_gradients_equal_torchs():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    pairs = [
        (lm.sigmoid, torch.sigmoid),
        (lm.silu, F.silu),
        (lm.gelu, F.gelu),
        (lm.gelu_tanh, lambda x: F.gelu(x, approximate="tanh")),
        (lm.geglu, lambda x: x[..., :50] * F.gelu(x[..., 50:])),
    ]
    x = torch.cat([torch.linspace(-9, 9, 99), torch.zeros(1)]).double().requires_grad_()
    for ours, theirs in pairs:
        got, want = (torch.autograd.grad(f(x).sum(), x)[0] for f in (ours, theirs))
        np.testing.assert_allclose(ours(x).detach(), theirs(x).detach(), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-14)


@given(data=st.data())
def test_the_second_half_gates_the_first(xp, dtype, xp_assert_close, to_numpy, data):
    a, gate = data.draw(strategies.paired(2, xp, dtype))
    host = to_numpy(gate).astype(np.float64).ravel()
    bell = np.reshape([float(v * mpmath.ncdf(v)) for v in map(mpf, host)], a.shape)
    want = to_numpy(a) * bell
    scale = abs(want) * (13 + 2 * to_numpy(gate).astype(float) ** 2)
    xp_assert_close(lm.geglu(xp.concat([a, gate], axis=-1)), want, like=a, ulps=1, scale=scale)


def test_halves_of_an_odd_axis_are_refused():
    with pytest.raises(ValueError, match="must be even, not 3"):
        lm.geglu(np.ones((2, 3)))
    assert lm.geglu(np.ones((3, 2))).shape == (3, 1)
