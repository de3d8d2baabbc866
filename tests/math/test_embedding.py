"""The timestep embedding against a plain loop in mpmath."""

import mpmath
import numpy as np
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
    exact, size = np.zeros((len(times), dim)), np.zeros((len(times), dim))
    for row, time in enumerate(times):
        for i in range(dim // 2):
            angle = mpf(time) * mpf(period) ** (-mpf(i) / (dim // 2))
            exact[row, i], exact[row, dim // 2 + i] = mpmath.cos(angle), mpmath.sin(angle)
            size[row, i] = size[row, dim // 2 + i] = 1 + angle  # cos and sin of a rounded angle
    got = lm.timestep_embedding(t, dim, period)
    xp_assert_close(got, exact, like=t, ulps=12, scale=size)


@given(times=TIMES, dim=WIDTHS)
def test_cosines_come_first_and_pair_with_sines(xp, dtype, xp_assert_close, times, dim):
    t = xp.asarray(times, dtype=getattr(xp, dtype))
    got = lm.timestep_embedding(t, dim)
    cos, sin = got[:, : dim // 2], got[:, dim // 2 :]
    xp_assert_close(cos**2 + sin**2, xp.ones_like(cos), ulps=4)
    start = lm.timestep_embedding(xp.zeros_like(t), dim)
    assert xp.all(start[:, : dim // 2] == 1) and xp.all(start[:, dim // 2 :] == 0)


@given(st.floats(0, 900), st.floats(0, 900), st.floats(0, 99), WIDTHS)
def test_products_of_embeddings_know_only_the_time_between(a, b, shift, dim):
    before = lm.timestep_embedding(np.asarray([a, b]), dim)
    after = lm.timestep_embedding(np.asarray([a + shift, b + shift]), dim)
    np.testing.assert_allclose(before[0] @ before[1], after[0] @ after[1], rtol=0, atol=1e-10)
