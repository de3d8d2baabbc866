"""Paths between latents against mpmath and the geometry of the sphere."""

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mpmath import mpf

from ldmref import math as lm
from ldmref.testing import strategies

mpmath.mp.dps = 50
ROOT = float(np.finfo(np.float64).eps) ** 0.5
TIMES = st.integers(-8, 16).map(lambda k: k / 8)


def mp(array):
    return [mpf(float(v)) for v in np.asarray(array, np.float64).ravel()]


def slerp_mp(a, b, t):
    """Return (point, sine of the angle), by the arc cosine, at 50 digits."""
    dot, aa, bb = (
        sum(u * v for u, v in zip(p, q, strict=True)) for p, q in ((a, b), (a, a), (b, b))
    )
    if aa == 0 or bb == 0:
        return None, mpf(0)
    cosine = dot / mpmath.sqrt(aa * bb)
    omega = mpmath.acos(max(mpf(-1), min(mpf(1), cosine)))
    sine = mpmath.sin(omega)
    if sine < mpf(10) ** -20:
        return None, mpf(0)
    s = mpmath.sin((1 - t) * omega) / sine
    r = mpmath.sin(t * omega) / sine
    return [s * u + r * v for u, v in zip(a, b, strict=True)], sine


@given(data=st.data())
def test_lerp_and_slerp_equal_mpmath(xp, dtype, xp_assert_close, to_numpy, data):
    a, b = data.draw(strategies.paired(2, xp, dtype))
    times = data.draw(st.lists(TIMES, min_size=a.shape[0], max_size=a.shape[0]))
    t = xp.asarray(times, dtype=a.dtype)
    line, circle = (np.zeros(a.shape) for _ in range(2))
    sizes, looseness = (np.zeros(a.shape) for _ in range(2))
    for i, time in enumerate(times):
        u = mp(to_numpy(a)[i])
        v = mp(to_numpy(b)[i])
        time = mpf(time)
        straight = [(1 - time) * p + time * q for p, q in zip(u, v, strict=True)]
        point, sine = slerp_mp(u, v, time)
        size = max(map(abs, u + v)) * (1 + abs(time))
        line[i] = np.reshape([float(p) for p in straight], a.shape[1:])
        circle[i] = np.reshape([float(p) for p in point or straight], a.shape[1:])
        sizes[i] = float(size)
        looseness[i] = float(size) * len(u) ** 0.5 / float(sine or 1)
    xp_assert_close(lm.lerp(a, b, t), line, like=a, ulps=4, scale=sizes)
    xp_assert_close(lm.slerp(a, b, t), circle, like=a, ulps=32, scale=looseness)


@pytest.mark.parametrize("path", [lm.lerp, lm.slerp])
@given(data=st.data())
def test_paths_start_at_a_and_end_at_b(xp, dtype, xp_assert_close, to_numpy, path, data):
    a, b = data.draw(strategies.paired(2, xp, dtype))
    assert np.array_equal(to_numpy(path(a, b, 0.0)), to_numpy(a))
    assert np.array_equal(to_numpy(path(a, b, 1.0)), to_numpy(b))
    each = xp.asarray([0.25] * a.shape[0], dtype=a.dtype)
    xp_assert_close(path(a, b, 0.25), path(a, b, each), like=a, ulps=4, scale=16.0)


@given(st.integers(0, 9999), st.floats(0, 1), st.integers(2, 6))
def test_slerp_keeps_lengths_turns_at_constant_speed_and_runs_both_ways(seed, t, d):
    rng = np.random.default_rng(seed)
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.standard_normal((2, 1, d)))
    omega = np.arccos(np.clip((a * b).sum(), -1, 1))
    assume(0.01 < omega < 3.1)
    middle = lm.slerp(a, b, t)
    assert np.linalg.norm(middle) == pytest.approx(1, rel=1e-11)
    angle = 2 * np.arcsin(np.linalg.norm(middle - a) / 2)  # by the chord
    assert angle == pytest.approx(t * omega, abs=1e-10)
    np.testing.assert_allclose(lm.slerp(b, a, 1 - t), middle, atol=1e-11)
    np.testing.assert_allclose(lm.slerp(3 * a, 3 * b, t), 3 * middle, atol=1e-11)


def test_images_are_vectors_each_its_own():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 2, 4))
    t = np.asarray([0.2, 0.5, 0.9])
    together = lm.slerp(a, b, t)
    for i in range(3):
        flat = lm.slerp(a[i].reshape(1, 8), b[i].reshape(1, 8), float(t[i]))
        np.testing.assert_allclose(together[i].ravel(), flat[0], rtol=1e-14)


def test_without_a_great_circle_the_path_is_straight(xp, dtype, xp_assert_close):
    a = xp.asarray(
        [[3.0, 4.0], [0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [1.0, 1.0]], dtype=getattr(xp, dtype)
    )
    b = xp.asarray([[6.0, 8.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0], [-1.0, -1.0]], dtype=a.dtype)
    for t in (0.25, 0.5, 1.5):
        with np.errstate(all="raise"):
            got = lm.slerp(a, b, t)
        xp_assert_close(got, lm.lerp(a, b, t), ulps=4, scale=8.0)


@pytest.mark.parametrize(("times_root", "length"), [(0.25, 0.0), (4.0, 1.0)])
def test_opposed_vectors_go_straight_below_the_root_of_ulp(times_root, length):
    """A great circle keeps the length half-way, the straight line goes through the origin."""
    delta = times_root * ROOT
    a = np.asarray([[1.0, 0.0]])
    b = np.asarray([[-np.cos(delta), np.sin(delta)]])
    assert np.linalg.norm(lm.slerp(a, b, 0.5)) == pytest.approx(length, abs=1e-6)


def test_small_angles_keep_their_digits():
    delta = 1e-5  # the arc cosine would be wrong by 1e-6 of it
    a = np.asarray([[1.0, 0.0]])
    b = np.asarray([[np.cos(delta), np.sin(delta)]])
    want = [[np.cos(30 * delta), np.sin(30 * delta)]]
    np.testing.assert_allclose(lm.slerp(a, b, 30.0), want, rtol=1e-9)


def test_noise_half_way_has_half_the_variance_on_the_line_and_all_of_it_on_the_circle():
    """4096 numbers: the standard deviation of their variance is sqrt(2 / 4096) = 0.022."""
    a, b = np.random.default_rng(1).standard_normal((2, 1, 4096))
    assert lm.lerp(a, b, 0.5).var() == pytest.approx(0.5, abs=5 * 0.022)
    assert lm.slerp(a, b, 0.5).var() == pytest.approx(1.0, abs=5 * 0.022)


@pytest.mark.parametrize("path", [lm.lerp, lm.slerp])
def test_times_of_another_number_are_refused(xp, path):
    with pytest.raises(ValueError, match="does not fit"):
        path(xp.ones((3, 2)), xp.ones((3, 2)), xp.ones((2,)))
