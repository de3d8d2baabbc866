"""Losses of a quantiser: values by loops, gradients by torch's autograd."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from ldmref import math as lm
from ldmref.testing import strategies


@given(data=st.data(), beta=st.sampled_from([None, 0.25, 0.0, 2.0]), legacy=st.booleans())
def test_losses_equal_loops(xp, dtype, xp_assert_close, to_numpy, data, beta, legacy):
    z, e = data.draw(strategies.paired(2, xp, dtype))
    a, b = (to_numpy(v).astype(np.longdouble) for v in (z, e))
    square = np.zeros(a.shape[:-1])
    for where in np.ndindex(square.shape):
        square[where] = sum((u - v) ** 2 for u, v in zip(a[where], b[where], strict=True))
    ulps = 2 + a.shape[-1]
    xp_assert_close(lm.codebook_loss(z, e), square, like=z, ulps=ulps)
    xp_assert_close(lm.commitment_loss(z, e), square, like=z, ulps=ulps)
    weight = [] if beta is None else [beta]
    got = lm.vq_loss(z, e, *weight, taming_legacy=legacy)
    both = (1 + (0.25 if beta is None else beta)) * square
    xp_assert_close(got, both, like=z, ulps=ulps + 2)


@given(data=st.data())
def test_straight_through_and_stop_gradient_keep_values(xp, dtype, xp_assert_close, to_numpy, data):
    z, e = data.draw(strategies.paired(2, xp, dtype))
    assert np.array_equal(to_numpy(lm.stop_gradient(z)), to_numpy(z))
    size = abs(to_numpy(z).astype(float)) + abs(to_numpy(e).astype(float))
    xp_assert_close(lm.straight_through(z, e), e, ulps=2, scale=size)


def test_arrays_without_gradients_come_back_as_they_are():
    x = np.ones(2)
    assert lm.stop_gradient(x) is x


@pytest.fixture
def quantised():
    """Two vectors that choose the entries 1 and 0 of a codebook of three: (z, codebook, z_q)."""
    torch = pytest.importorskip("torch")
    z = torch.tensor([[1.0, 0.5], [-2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    book = torch.tensor([[-1.5, 0.5], [1.0, 1.5], [9.0, 9.0]], dtype=torch.float64)
    book.requires_grad_()
    indices, z_q = lm.nearest_code(z, book)
    assert indices.tolist() == [1, 0]
    return z, book, z_q


def gradients(loss, *leaves):
    import torch

    found = torch.autograd.grad(loss.sum(), leaves, allow_unused=True, retain_graph=True)
    return [None if g is None else g.tolist() for g in found]


def test_gradients_of_the_losses(quantised):
    z, book, z_q = quantised
    to_book = [[1.0, 1.0], [0.0, 2.0], [0.0, 0.0]]
    to_z = [[0.0, -2.0], [-1.0, -1.0]]
    assert gradients(lm.codebook_loss(z, z_q), z, book) == [None, to_book]
    assert gradients(lm.commitment_loss(z, z_q), z, book) == [to_z, None]
    halves = [[0.25 * v for v in row] for row in to_z]
    assert gradients(lm.vq_loss(z, z_q), z, book) == [halves, to_book]
    halves = [[0.5 * v for v in row] for row in to_book]
    assert gradients(lm.vq_loss(z, z_q, 0.5, taming_legacy=True), z, book) == [to_z, halves]
    assert gradients(lm.vq_loss(z, z_q, 0.5), z, book)[1] == to_book


def test_the_decoders_gradient_passes_to_the_encoder_alone(quantised):
    z, book, z_q = quantised
    out = lm.straight_through(z, z_q)
    assert out.tolist() == z_q.tolist()
    loss = (out * out.new_tensor([[3.0, -1.0], [5.0, 7.0]])) ** 2
    at_z_q = [[2 * 9 * 1.0, 2 * 1.5], [2 * 25 * -1.5, 2 * 49 * 0.5]]
    assert gradients(loss, z, book) == [at_z_q, None]
    assert gradients(z_q * z_q, z, book)[0] is None  # without it, the encoder learns nothing


def test_stop_gradient_cuts_torch(quantised):
    z, *_ = quantised
    assert not lm.stop_gradient(z).requires_grad
    assert lm.stop_gradient(z).data_ptr() == z.data_ptr()


def test_a_step_on_the_codebook_loss_is_k_means(quantised):
    """Newton's step on the loss puts an entry on the mean of its vectors."""
    torch = pytest.importorskip("torch")
    z = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    book = torch.tensor([[0.4], [4.0]], dtype=torch.float64, requires_grad=True)
    indices, z_q = lm.nearest_code(z, book)
    (gradient,) = torch.autograd.grad(lm.codebook_loss(z, z_q).sum(), book)
    counts = torch.bincount(indices)[:, None]
    assert torch.allclose(book - gradient / (2 * counts), torch.tensor([[0.5], [5.0]]).double())


@given(data=st.data(), codes=st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_perplexity_is_that_of_the_frequencies(xp, xp_assert_close, to_numpy, data, codes):
    indices = xp.asarray(codes)
    if len(codes) % 2 == 0:
        indices = xp.reshape(indices, (2, -1))
    counts = np.bincount(codes)
    got = lm.code_perplexity(indices)
    like = xp.asarray(1.0, dtype=xp.float64)
    xp_assert_close(got, np.asarray(np.exp(entropy(counts))), like=like, ulps=8 * len(codes))
    assert 1 - 1e-15 <= float(got) <= len(set(codes)) + 1e-12


def test_perplexity_of_uniform_and_single_codes():
    assert lm.code_perplexity(np.arange(8)) == pytest.approx(8, rel=1e-14)
    assert lm.code_perplexity(np.full((3, 3), 7)) == 1


@given(seed=st.integers(0, 10_000), decay=st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_the_moving_average_equals_a_loop(xp, dtype, xp_assert_close, to_numpy, seed, decay):
    rng = np.random.default_rng(seed)
    host = [rng.uniform(0, 3, 4), rng.normal(size=(4, 2)), rng.normal(size=(6, 2))]
    counts, sums, z = (xp.asarray(a.tolist(), dtype=getattr(xp, dtype)) for a in host)
    indices = rng.integers(0, 4, 6)
    n, m, vectors = (to_numpy(v).astype(np.float64) for v in (counts, sums, z))
    n = decay * n
    m = decay * m
    for vector, k in zip(vectors, indices, strict=True):
        n[k] += 1 - decay
        m[k] += (1 - decay) * vector
    got = lm.codebook_moving_average(counts, sums, z, xp.asarray(indices.tolist()), decay)
    expected = n, m, m / np.where(n > 0, n, 1)[:, None]
    size = 1 + abs(m).max()
    for a, b, scale in zip(got, expected, (8, size, size / min(n[n > 0], default=1)), strict=True):
        xp_assert_close(a, b, like=counts, ulps=16, scale=float(scale))


def test_the_moving_average_settles_at_k_means():
    """With fixed vectors and assignments, each entry becomes the mean of its vectors."""
    z = np.asarray([[0.0], [1.0], [5.0]])
    indices = np.asarray([0, 0, 1])
    counts = np.ones(3)
    sums = np.full((3, 1), 9.0)
    codebook = np.zeros((3, 1))
    for _ in range(400):
        counts, sums, codebook = lm.codebook_moving_average(counts, sums, z, indices, 0.9)
    assert np.allclose(counts[:2], [2, 1]) and np.allclose(codebook[:2], [[0.5], [5.0]])
    assert codebook[2] == pytest.approx(9.0)  # never used, never moved
