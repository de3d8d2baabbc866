"""Attention against a loop in mpmath, torch's own, and the laws of permutations."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from ldmref import math as lm
from ldmref.testing import strategies

mpmath.mp.dps = 50
SEEDS = st.integers(0, 10_000)
LENGTHS = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))  # l, m, d


def softmax_mp(row):
    powers = [mpmath.exp(s) for s in row]
    return [p / sum(powers) for p in powers]


def map_by_loops(q, k, sees):
    """Return (weights, size of the scores' terms) of single matrices."""
    weights = np.zeros((len(q), len(k)))
    size = 0.0
    for i, query in enumerate(q):
        keys = [j for j in range(len(k)) if sees(i, j)]
        scores = []
        for j in keys:
            terms = [mpf(float(a)) * mpf(float(b)) for a, b in zip(query, k[j], strict=True)]
            scores.append(sum(terms) / mpmath.sqrt(len(query)))
            size = max(size, float(sum(map(abs, terms)) / mpmath.sqrt(len(query))))
        for j, weight in zip(keys, softmax_mp(scores), strict=True):
            weights[i, j] = float(weight)
    return weights, size


@given(data=st.data(), axis=st.sampled_from([None, 0, 1, -1]))
def test_softmax_equals_mpmath(xp, dtype, xp_assert_close, to_numpy, data, axis):
    x = data.draw(strategies.arrays((2, 3), xp, dtype))
    shift = data.draw(st.sampled_from([0.0, 1e4, -1e4]))
    x = x + shift
    host = to_numpy(x).astype(np.float64)
    rows = host.T if axis == 0 else host
    want = np.asarray([[float(p) for p in softmax_mp(map(mpf, row))] for row in rows])
    scale = want * (4 + rows.shape[1] + rows.max(axis=1, keepdims=True) - rows)
    want, scale = (want.T, scale.T) if axis == 0 else (want, scale)
    got = lm.softmax(x) if axis is None else lm.softmax(x, axis)
    xp_assert_close(got, want, like=x, ulps=1, scale=scale)


def test_softmax_gives_nothing_to_minus_infinity():
    assert lm.softmax(np.asarray([-np.inf, 0.0, 0.0])).tolist() == [0.0, 0.5, 0.5]


@given(data=st.data(), lengths=LENGTHS, causal=st.booleans(), masked=st.booleans())
def test_maps_and_mixtures_equal_loops(
    xp, dtype, xp_assert_close, to_numpy, data, lengths, causal, masked
):
    l, m, d = lengths
    q = data.draw(strategies.arrays((2, l, d), xp, dtype, 2))
    k = data.draw(strategies.arrays((2, m, d), xp, dtype, 2))
    v = data.draw(strategies.arrays((2, m, 2), xp, dtype))
    rows = st.lists(st.booleans(), min_size=m, max_size=m)
    allowed = data.draw(st.lists(rows, min_size=l, max_size=l)) if masked else [[True] * m] * l

    def sees(i, j):
        return allowed[i][j] and (not causal or j <= i)

    hosts = zip(to_numpy(q), to_numpy(k), strict=True)
    by_loops = [map_by_loops(a, b, sees) for a, b in hosts]
    want = np.stack([w for w, _ in by_loops])
    size = max(s for _, s in by_loops)
    mask = xp.asarray(allowed) if masked else None
    arguments = ([causal] if causal or masked else []) + ([mask] if masked else [])
    got = lm.attention_map(q, k, *arguments)
    scale = want * (8 + m + d * size)
    xp_assert_close(got, want, like=q, ulps=2, scale=scale)
    mixed = lm.scaled_dot_product_attention(q, k, v, *arguments)
    loops = np.einsum("nlm,nmd->nld", want, to_numpy(v).astype(float))
    xp_assert_close(mixed, loops, like=q, ulps=2, scale=8.0 * (8 + 2 * m + d * size))
    seen = np.asarray([[sees(i, j) for j in range(m)] for i in range(l)])
    sums = to_numpy(got).sum(axis=-1)
    blind = ~seen.any(axis=1)
    assert np.allclose(sums[:, ~blind], 1, atol=1e-6) and not sums[:, blind].any()


def test_attention_by_default_sees_everything():
    q = np.zeros((2, 1))
    k = np.zeros((2, 1))
    assert lm.attention_map(q, k).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    v = np.asarray([[0.0], [4.0]])
    assert lm.scaled_dot_product_attention(q, k, v).tolist() == [[2.0], [2.0]]
    assert lm.scaled_dot_product_attention(q, k, v, causal=True).tolist() == [[0.0], [2.0]]


@given(seed=SEEDS)
def test_attention_equals_torchs(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    q, k, v = (torch.asarray(rng.standard_normal((2, 3, n, 4))) for n in (5, 6, 6))
    mask = torch.asarray(rng.random((5, 6)) < 0.5)
    mask[:, 0] = True
    theirs = torch.nn.functional.scaled_dot_product_attention
    pairs = [
        (lm.scaled_dot_product_attention(q, k, v), theirs(q, k, v)),
        (lm.scaled_dot_product_attention(q, k, v, causal=True), theirs(q, k, v, is_causal=True)),
        (lm.scaled_dot_product_attention(q, k, v, mask=mask), theirs(q, k, v, attn_mask=mask)),
    ]
    for ours, other in pairs:
        np.testing.assert_allclose(ours, other, rtol=0, atol=1e-14)


@given(seed=SEEDS)
def test_permutations(seed):
    """Keys in another order mix the same; queries in another order give the rows in that order."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((n, 3)) for n in (4, 5, 5))
    keys = rng.permutation(5)
    queries = rng.permutation(4)
    before = lm.attention_map(q, k)
    mixed = lm.scaled_dot_product_attention(q, k, v)
    np.testing.assert_allclose(lm.attention_map(q, k[keys]), before[:, keys], atol=1e-15)
    np.testing.assert_allclose(lm.attention_map(q[queries], k), before[queries], atol=1e-15)
    again = lm.scaled_dot_product_attention(q[queries], k[keys], v[keys])
    np.testing.assert_allclose(again, mixed[queries], atol=1e-14)
    shifted = lm.attention_map(q, k + rng.standard_normal(3))  # adds q.s to a whole row of scores
    np.testing.assert_allclose(shifted, before, atol=1e-13)


@given(data=st.data())
def test_the_future_changes_nothing_under_a_causal_mask(xp, dtype, xp_assert_close, data):
    q, k = data.draw(strategies.paired(2, xp, dtype, (4, 2), 2))
    other = xp.concat([k[:2, :], data.draw(strategies.arrays((2, 2), xp, dtype, 2))])
    maps = [lm.attention_map(q, z, causal=True) for z in (k, other)]
    xp_assert_close(maps[0][:2, :], maps[1][:2, :], ulps=0)
    assert not xp.any(xp.triu(maps[0], k=1))


def test_a_blind_query_gets_zeros_and_a_finite_gradient():
    torch = pytest.importorskip("torch")
    q = torch.ones((2, 3), requires_grad=True)
    mask = torch.asarray([[True, False], [False, False]])
    weights = lm.attention_map(q, torch.ones((2, 3)), mask=mask)
    assert weights.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    weights.sum().backward()
    assert bool(torch.isfinite(q.grad).all())


@given(seed=SEEDS)
def test_word_map_is_the_mean_over_heads_on_the_grid(xp, dtype, xp_assert_close, to_numpy, seed):
    rng = np.random.default_rng(seed)
    heads, height, width, tokens = (int(n) for n in rng.integers(1, 4, 4))
    maps = rng.random((2, heads, height * width, tokens))
    token = int(rng.integers(tokens))
    attention = xp.asarray(maps.tolist(), dtype=getattr(xp, dtype))
    want = np.zeros((2, height, width))
    for n, h, y, x in np.ndindex(2, heads, height, width):
        want[n, y, x] += float(to_numpy(attention)[n, h, y * width + x, token]) / heads
    got = lm.word_map(attention, token, height, width)
    xp_assert_close(got, want, like=attention, ulps=heads + 2)
    one = lm.word_map(attention[0, ...], token, height, width)
    xp_assert_close(one, got[0, ...], ulps=0)


@given(seed=SEEDS)
def test_word_maps_of_all_tokens_sum_to_one(seed):
    rng = np.random.default_rng(seed)
    attention = lm.attention_map(rng.standard_normal((2, 6, 3)), rng.standard_normal((2, 4, 3)))
    total = sum(lm.word_map(attention, token, 2, 3) for token in range(4))
    np.testing.assert_allclose(total, np.ones((2, 3)), rtol=1e-14)


def test_word_map_refuses_another_grid_and_other_tokens():
    attention = np.ones((1, 6, 4))
    for token in (-1, 4):
        with pytest.raises(ValueError, match="token must be from 0 to 3"):
            lm.word_map(attention, token, 2, 3)
    with pytest.raises(ValueError, match="6 queries is not 2 x 4"):
        lm.word_map(attention, 0, 2, 4)
    assert lm.word_map(attention, 0, 2, 3).shape == lm.word_map(attention, 3, 2, 3).shape == (2, 3)


def test_every_example_may_have_its_own_mask(xp, dtype, xp_assert_close):
    q = xp.reshape(xp.arange(8, dtype=getattr(xp, dtype)), (2, 2, 2)) / 8.0
    masks = [[[True, False], [False, False]], [[True, True], [False, True]]]
    together = lm.attention_map(q, q, mask=xp.asarray(masks))
    for i in range(2):
        alone = lm.attention_map(q[i, ...], q[i, ...], mask=xp.asarray(masks[i]))
        xp_assert_close(together[i, ...], alone, ulps=4)


def test_a_row_that_may_see_nothing_leaves_the_others_alone():
    """Only its own weights are zero; the others still sum to one over what they see."""
    q = np.ones((2, 1))
    k = np.asarray([[0.0], [1.0], [2.0]])
    got = lm.attention_map(q, k, mask=np.asarray([[False] * 3, [True, False, True]]))
    weights = np.exp([0.0, 2.0]) / np.exp([0.0, 2.0]).sum()
    np.testing.assert_allclose(got, [[0, 0, 0], [weights[0], 0, weights[1]]], rtol=1e-12)
