"""The nearest code against a search that looks at every one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from ldmref import math as lm
from ldmref.testing import strategies


@st.composite
def problems(draw, xp, dtype):
    """Return (z, codebook): vectors (..., d) and entries (k, d)."""
    d = draw(st.integers(1, 4))
    k = draw(st.integers(1, 6))
    lead = draw(strategies.shapes(1, 3))
    return draw(strategies.arrays((*lead, d), xp, dtype)), draw(
        strategies.arrays((k, d), xp, dtype)
    )


@given(data=st.data())
def test_nearest_code_equals_brute_force(xp, dtype, to_numpy, data):
    z, codebook = data.draw(problems(xp, dtype))
    indices, quantised = lm.nearest_code(z, codebook)
    assert indices.shape == z.shape[:-1] and quantised.shape == z.shape
    assert quantised.dtype == z.dtype and xp.isdtype(indices.dtype, "integral")
    codes = to_numpy(codebook).astype(np.float64)
    eps = np.finfo(to_numpy(z).dtype).eps
    for where in np.ndindex(indices.shape):
        vector = to_numpy(z)[where].astype(np.float64)
        chosen = int(to_numpy(indices)[where])
        distances = [sum((a - b) ** 2 for a, b in zip(vector, e, strict=True)) for e in codes]
        size = (vector**2).sum() + (codes**2).sum(axis=1).max()
        assert distances[chosen] <= min(distances) + 16 * eps * size
        assert np.all(to_numpy(quantised)[where] == codes[chosen])


@given(data=st.data())
def test_codes_are_their_own_nearest(xp, dtype, to_numpy, data):
    unique = st.lists(st.tuples(*[st.integers(-8, 8)] * 2), min_size=1, max_size=6, unique=True)
    rows = data.draw(unique)
    codebook = xp.asarray([[float(x) for x in row] for row in rows], dtype=getattr(xp, dtype))
    indices, quantised = lm.nearest_code(codebook, codebook)
    assert to_numpy(indices).tolist() == list(range(len(rows)))
    assert np.array_equal(to_numpy(quantised), to_numpy(codebook))


def test_the_first_of_equals_wins(xp, dtype, to_numpy):
    codebook = xp.asarray([[3.0], [1.0], [-1.0], [1.0]], dtype=getattr(xp, dtype))
    indices, _ = lm.nearest_code(xp.zeros((2, 1), dtype=codebook.dtype), codebook)
    assert to_numpy(indices).tolist() == [1, 1]


@pytest.mark.parametrize("seed", range(3))
def test_nearest_code_follows_a_shuffled_codebook(seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(9, 3))
    codebook = rng.normal(size=(7, 3))
    order = rng.permutation(7)
    indices, quantised = lm.nearest_code(z, codebook)
    shuffled, same = lm.nearest_code(z, codebook[order])
    assert np.array_equal(order[shuffled], indices) and np.array_equal(same, quantised)


def test_a_thousand_vectors_find_the_nearest_of_fifty():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1000, 4))
    codebook = rng.normal(size=(50, 4))
    assert np.array_equal(lm.nearest_code(z, codebook)[0], cdist(z, codebook).argmin(axis=1))
