"""eps, x0, v and score: each the inverse of another, and each against its definition."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from ldmref import math as lm
from ldmref.testing import strategies
from ldmref.testing.mixture import three_modes

mpmath.mp.dps = 50
VALUES = st.floats(-4, 4)
ALPHA_BARS = strategies.alpha_bar_values()


def one(x):
    return np.asarray([[float(x)]])


@given(data=st.data())
def test_x0_and_eps_come_back_from_each_other(xp, dtype, xp_assert_close, data):
    x0, eps, a = data.draw(strategies.diffusions(xp, dtype))
    xt = lm.q_sample(x0, a, eps)
    level = xp.reshape(a, (-1,) + (1,) * (x0.ndim - 1)) + xp.zeros_like(x0)
    size = abs(xt) + abs(x0) + abs(eps)
    xp_assert_close(lm.x0_from_eps(xt, eps, a), x0, ulps=6, scale=size / xp.sqrt(level))
    xp_assert_close(lm.eps_from_x0(xt, x0, a), eps, ulps=6, scale=size / xp.sqrt(1 - level))


@given(data=st.data())
def test_x0_and_eps_come_back_from_v_at_every_level(xp, dtype, xp_assert_close, data):
    x0, eps, a = data.draw(strategies.diffusions(xp, dtype, 0.0, 1.0))
    xt = lm.q_sample(x0, a, eps)
    v = lm.v_from_x0_eps(x0, eps, a)
    size = abs(x0) + abs(eps)
    xp_assert_close(lm.x0_from_v(xt, v, a), x0, ulps=8, scale=size)
    xp_assert_close(lm.eps_from_v(xt, v, a), eps, ulps=8, scale=size)


@given(data=st.data())
def test_xt_and_v_are_x0_and_eps_rotated(xp, dtype, xp_assert_close, data):
    x0, eps, a = data.draw(strategies.diffusions(xp, dtype, 0.0, 1.0))
    xt = lm.q_sample(x0, a, eps)
    v = lm.v_from_x0_eps(x0, eps, a)
    xp_assert_close(xt**2 + v**2, x0**2 + eps**2, ulps=16)


@given(VALUES, VALUES, ALPHA_BARS)
def test_v_equals_the_derivative_of_xt_along_the_angle(x0, eps, a):
    def xt(angle):
        return mpmath.cos(angle) * mpf(x0) + mpmath.sin(angle) * mpf(eps)

    exact = mpmath.diff(xt, mpmath.acos(mpmath.sqrt(mpf(a))))
    assert abs(lm.v_from_x0_eps(one(x0), one(eps), a)[0, 0] - exact) < 1e-14


@given(VALUES, VALUES, ALPHA_BARS)
def test_conversions_equal_the_solution_of_the_linear_system(xt, v, a):
    """x_t and v are two linear equations for x0 and eps."""
    cos = mpmath.sqrt(mpf(a))
    sin = mpmath.sqrt(1 - mpf(a))
    x0, eps = mpmath.lu_solve(mpmath.matrix([[cos, sin], [-sin, cos]]), [mpf(xt), mpf(v)])
    assert abs(lm.x0_from_v(one(xt), one(v), a)[0, 0] - x0) < 1e-14
    assert abs(lm.eps_from_v(one(xt), one(v), a)[0, 0] - eps) < 1e-14
    assert abs(lm.x0_from_eps(one(xt), one(eps), a)[0, 0] - x0) * cos < 1e-14
    assert abs(lm.eps_from_x0(one(xt), one(x0), a)[0, 0] - eps) * sin < 1e-14


def test_v_is_eps_on_clean_data_and_minus_x0_in_pure_noise(xp, dtype, xp_assert_close):
    x0, eps = (xp.asarray([[k]], dtype=getattr(xp, dtype)) for k in (2.0, 3.0))
    xp_assert_close(lm.v_from_x0_eps(x0, eps, 1.0), eps, ulps=0)
    xp_assert_close(lm.v_from_x0_eps(x0, eps, 0.0), -x0, ulps=0)


@given(data=st.data())
def test_score_equals_its_definition(xp, dtype, xp_assert_close, to_numpy, data):
    eps = data.draw(strategies.arrays((3, 2), xp, dtype))
    a = data.draw(strategies.alpha_bars(3, xp, dtype))
    level = to_numpy(a).astype(np.float64)[:, None]
    desired = -to_numpy(eps).astype(np.float64) / np.sqrt(1 - level)
    xp_assert_close(lm.score_from_eps(eps, a), desired, like=eps, ulps=3)


@given(VALUES, VALUES, ALPHA_BARS)
def test_score_equals_the_gradient_of_the_log_density_of_one_datum(x0, xt, a):
    def log_density(x):
        return -((x - mpmath.sqrt(mpf(a)) * mpf(x0)) ** 2) / (2 * (1 - mpf(a)))

    score = lm.score_from_eps(lm.eps_from_x0(one(xt), one(x0), a), a)[0, 0]
    assert abs(score - mpmath.diff(log_density, mpf(xt))) * (1 - a) < 1e-14


@pytest.mark.parametrize("a", [0.1, 0.97])
@pytest.mark.parametrize("xt", [-2.0, 1.5])
def test_score_of_the_expected_noise_equals_the_gradient_for_a_mixture(a, xt):
    """Data are -1 or 2 with weights 0.3 and 0.7, blurred by 0.5: E[x0 | x_t] by quadrature."""
    with mpmath.workdps(30):
        weights = {-1: mpf("0.3"), 2: mpf("0.7")}
        shrink = mpmath.sqrt(mpf(a))
        noise = 1 - mpf(a)

        def prior(x0):
            return sum(w * mpmath.npdf(x0, m, 0.5) for m, w in weights.items())

        def joint(x0):
            return prior(x0) * mpmath.npdf(mpf(xt), shrink * x0, mpmath.sqrt(noise))

        cuts = [-6, -2, -1, 0, 1, 2, 3, 7]
        evidence = mpmath.quad(joint, cuts)
        mean = mpmath.quad(lambda x0: x0 * joint(x0), cuts) / evidence

        def log_marginal(x):
            width = mpmath.sqrt(a * mpf("0.25") + noise)
            return mpmath.log(
                sum(w * mpmath.npdf(x, shrink * m, width) for m, w in weights.items())
            )

        exact = mpmath.diff(log_marginal, mpf(xt))
    eps = lm.eps_from_x0(one(xt), one(mean), a)
    np.testing.assert_allclose(lm.score_from_eps(eps, a)[0, 0], float(exact), rtol=1e-9)


@given(data=st.data())
def test_predictions_are_linear(xp, dtype, xp_assert_close, data):
    x, y, a = data.draw(strategies.diffusions(xp, dtype, 0.01, 0.99))
    for convert in (lm.x0_from_eps, lm.eps_from_x0, lm.v_from_x0_eps, lm.x0_from_v, lm.eps_from_v):
        xp_assert_close(convert(4 * x, 4 * y, a), 4 * convert(x, y, a), ulps=0)
        xp_assert_close(
            convert(x, y, a),
            convert(x, xp.zeros_like(y), a) + convert(xp.zeros_like(x), y, a),
            ulps=16,
            scale=100.0,
        )


@given(data=st.data())
def test_eps_and_score_come_back_from_each_other(xp, dtype, xp_assert_close, to_numpy, data):
    score, _, a = data.draw(strategies.diffusions(xp, dtype))
    level = to_numpy(a).astype(np.float64).reshape((-1,) + (1,) * (score.ndim - 1))
    desired = -np.sqrt(1 - level) * to_numpy(score).astype(np.float64)
    eps = lm.eps_from_score(score, a)
    xp_assert_close(eps, desired, like=score, ulps=3)
    xp_assert_close(lm.score_from_eps(eps, a), score, ulps=6)


@given(VALUES, VALUES, ALPHA_BARS)
def test_tweedie_s_formula_equals_mpmath(xt, score, a):
    noise = 1 - mpf(a)
    signal = mpmath.sqrt(mpf(a))
    exact = (mpf(xt) + noise * mpf(score)) / signal
    got = lm.x0_from_score(one(xt), one(score), a)[0, 0]
    assert abs(got - exact) * signal < 4e-15
    back = lm.score_from_x0(one(xt), one(score), a)[0, 0]
    assert abs(back - (signal * mpf(score) - mpf(xt)) / noise) * noise < 4e-15


@given(data=st.data())
def test_x0_and_score_come_back_from_each_other(xp, dtype, xp_assert_close, data):
    xt, score, a = data.draw(strategies.diffusions(xp, dtype, 0.05, 0.95))
    back = lm.score_from_x0(xt, lm.x0_from_score(xt, score, a), a)
    xp_assert_close(back, score, ulps=16, scale=400.0)


@given(data=st.data())
def test_score_and_eps_and_x0_agree(xp, dtype, xp_assert_close, data):
    """The ways eps -> score -> x0 and eps -> x0 are one."""
    xt, eps, a = data.draw(strategies.diffusions(xp, dtype, 0.05, 0.95))
    by_score = lm.x0_from_score(xt, lm.score_from_eps(eps, a), a)
    xp_assert_close(by_score, lm.x0_from_eps(xt, eps, a), ulps=16, scale=100.0)


@pytest.mark.parametrize("a", [0.02, 0.3, 0.9])
def test_score_of_a_mixture_gives_its_denoiser_and_back(a):
    """x_t = sqrt(a) x0 + sqrt(1 - a) eps for a mixture x0: score and E[x0 | x_t] are known."""
    problem = three_modes()
    xt = np.random.default_rng(5).standard_normal((50, 2))
    score = problem.scaled(np.sqrt(a)).score(xt, np.sqrt(1 - a))
    mean = problem.denoise(xt / np.sqrt(a), np.sqrt((1 - a) / a))
    np.testing.assert_allclose(lm.x0_from_score(xt, score, a), mean, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(lm.score_from_x0(xt, mean, a), score, rtol=1e-11, atol=1e-12)
    eps = lm.eps_from_score(score, a)
    np.testing.assert_allclose(lm.x0_from_eps(xt, eps, a), mean, rtol=1e-11, atol=1e-12)


def test_scores_hold_at_their_extreme_levels(xp, dtype, xp_assert_close):
    """In pure noise the score is -x_t; on clean data Tweedie's formula changes nothing."""
    x = xp.asarray([[3.0, -2.0]], dtype=getattr(xp, dtype))
    xp_assert_close(lm.score_from_x0(x, 9 * x, 0.0), -x, ulps=0)
    xp_assert_close(lm.eps_from_score(-x, 0.0), x, ulps=0)
    xp_assert_close(lm.x0_from_score(x, 9 * x, 1.0), x, ulps=0)
    xp_assert_close(lm.eps_from_score(x, 1.0), 0 * x, ulps=0)
