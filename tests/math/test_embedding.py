"""The timestep embedding against a plain loop in mpmath."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from ldmref import math as lm

mpmath.mp.dps = 50
WIDTHS = st.integers(1, 8).map(lambda h: 2 * h)
TIMES = st.lists(st.integers(0, 999 * 8).map(lambda k: k / 8), min_size=1, max_size=3)


@given(times=TIMES, dim=WIDTHS, period=st.sampled_from([10.0, 10000.0]))
def test_embedding_equals_a_plain_loop(xp, dtype, xp_assert_close, times, dim, period):
    t = xp.asarray(times, dtype=getattr(xp, dtype))
    exact = np.zeros((len(times), dim))
    size = np.zeros((len(times), dim))
    for row, time in enumerate(times):
        for i in range(dim // 2):
            angle = mpf(time) * mpf(period) ** (-mpf(i) / (dim // 2))
            exact[row, i] = mpmath.cos(angle)
            exact[row, dim // 2 + i] = mpmath.sin(angle)
            size[row, i] = size[row, dim // 2 + i] = 1 + angle  # cos and sin of a rounded angle
    got = lm.timestep_embedding(t, dim, period)
    xp_assert_close(got, exact, like=t, ulps=12, scale=size)


@given(times=TIMES, dim=WIDTHS)
def test_cosines_come_first_and_pair_with_sines(xp, dtype, xp_assert_close, times, dim):
    t = xp.asarray(times, dtype=getattr(xp, dtype))
    got = lm.timestep_embedding(t, dim)
    cos = got[:, : dim // 2]
    sin = got[:, dim // 2 :]
    xp_assert_close(cos**2 + sin**2, xp.ones_like(cos), ulps=4)
    start = lm.timestep_embedding(xp.zeros_like(t), dim)
    assert xp.all(start[:, : dim // 2] == 1) and xp.all(start[:, dim // 2 :] == 0)


@given(st.floats(0, 900), st.floats(0, 900), st.floats(0, 99), WIDTHS)
def test_products_of_embeddings_know_only_the_time_between(a, b, shift, dim):
    before = lm.timestep_embedding(np.asarray([a, b]), dim)
    after = lm.timestep_embedding(np.asarray([a + shift, b + shift]), dim)
    np.testing.assert_allclose(before[0] @ before[1], after[0] @ after[1], rtol=0, atol=1e-10)


@given(times=TIMES, half=st.integers(2, 8), shift=st.sampled_from([0, 0.5, 1]))
def test_ddpm_puts_sines_first_and_ends_at_one_over_the_period(
    xp, dtype, xp_assert_close, times, half, shift
):
    t = xp.asarray(times, dtype=getattr(xp, dtype))
    exact = np.zeros((len(times), 2 * half))
    size = np.zeros((len(times), 2 * half))
    for row, time in enumerate(times):
        for i in range(half):
            angle = mpf(time) * mpf(10000) ** (-mpf(i) / (half - mpf(shift)))
            exact[row, i] = mpmath.sin(angle)
            exact[row, half + i] = mpmath.cos(angle)
            size[row, i] = size[row, half + i] = 1 + angle
    got = lm.timestep_embedding(t, 2 * half, flip_sin_to_cos=False, freq_shift=shift)
    xp_assert_close(got, exact, like=t, ulps=16, scale=size)
    other = lm.timestep_embedding(t, 2 * half, freq_shift=shift)
    swapped = xp.concat([got[:, half:], got[:, :half]], axis=1)
    xp_assert_close(other, swapped, ulps=0)


def test_defaults_are_those_of_latent_diffusion():
    got = lm.timestep_embedding(np.asarray([7.0]), 4)[0]
    np.testing.assert_allclose(got, [np.cos(7), np.cos(0.07), np.sin(7), np.sin(0.07)], rtol=1e-14)
    slowest = lm.timestep_embedding(np.asarray([7.0]), 6, freq_shift=1)[0, 5]
    np.testing.assert_allclose(slowest, np.sin(7 / 10000), rtol=1e-13)


@pytest.mark.parametrize("dim", [0, -2, 1, 3])
def test_widths_that_are_odd_or_not_positive_are_refused(dim):
    with pytest.raises(ValueError, match="dim must be even and positive"):
        lm.timestep_embedding(np.ones(1), dim)


def test_a_shift_that_leaves_no_frequency_is_refused():
    for shift in (1, 1.5):
        with pytest.raises(ValueError, match="freq_shift must be less than 1"):
            lm.timestep_embedding(np.ones(1), 2, freq_shift=shift)
    assert lm.timestep_embedding(np.ones(1), 2).shape == (1, 2)
    assert lm.timestep_embedding(np.ones(1), 4, freq_shift=1).shape == (1, 4)
