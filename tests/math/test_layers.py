"""Normalisation, resampling and LoRA against loops, torch's own, and what they leave unchanged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref import math as lm
from ldmref.testing import strategies

SEEDS = st.integers(0, 10_000)
EPS = [1e-6, 1e-5, 0.5]


def standardise(values, eps):
    """(zero mean and unit variance, size of the terms), in long double."""
    values = values.astype(np.longdouble).ravel()
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    size = 1 + abs(values).max() / np.sqrt(variance + eps)
    return (values - mean) / np.sqrt(variance + np.longdouble(eps)), size


def problem(data, xp, dtype, shape, width):
    x = data.draw(strategies.arrays(shape, xp, dtype))
    weight = data.draw(st.none() | strategies.arrays((width,), xp, dtype, 2))
    bias = data.draw(st.none() | strategies.arrays((width,), xp, dtype, 2))
    return x, weight, bias


@given(data=st.data(), groups=st.sampled_from([1, 2, 4]), eps=st.sampled_from(EPS))
def test_group_norm_equals_loops(xp, dtype, xp_assert_close, to_numpy, data, groups, eps):
    rest = data.draw(st.sampled_from([(), (3,), (2, 2), (1, 2, 2)]))
    x, weight, bias = problem(data, xp, dtype, (2, 4, *rest), 4)
    host = to_numpy(x)
    width = 4 // groups
    want = np.zeros(host.shape)
    scale = np.zeros(host.shape)
    for n, g in np.ndindex(2, groups):
        here = (n, slice(g * width, (g + 1) * width))
        y, size = standardise(host[here], eps)
        want[here] = y.reshape(host[here].shape)
        scale[here] = size
    for c in range(4):
        gamma = 1.0 if weight is None else float(to_numpy(weight)[c])
        beta = 0.0 if bias is None else float(to_numpy(bias)[c])
        want[:, c] = want[:, c] * gamma + beta
        scale[:, c] = scale[:, c] * abs(gamma) + abs(beta)
    got = lm.group_norm(x, weight, bias, groups, eps)
    xp_assert_close(got, want, like=x, ulps=16, scale=scale)


@given(data=st.data(), d=st.integers(1, 4), eps=st.sampled_from(EPS))
def test_layer_norm_equals_loops(xp, dtype, xp_assert_close, to_numpy, data, d, eps):
    lead = data.draw(st.sampled_from([(), (2,), (2, 3)]))
    x, weight, bias = problem(data, xp, dtype, (*lead, d), d)
    want = np.zeros(x.shape)
    scale = np.zeros(x.shape)
    for where in np.ndindex(lead):
        want[where], scale[where] = standardise(to_numpy(x)[where], eps)
    gamma = 1.0 if weight is None else to_numpy(weight).astype(np.float64)
    beta = 0.0 if bias is None else to_numpy(bias).astype(np.float64)
    scale = scale * abs(gamma) + abs(beta)
    got = lm.layer_norm(x, weight, bias, eps)
    xp_assert_close(got, want * gamma + beta, like=x, ulps=16, scale=scale)


@given(seed=SEEDS)
def test_norms_equal_torchs(seed):
    F = pytest.importorskip("torch").nn.functional
    import torch

    x, w, b = (
        torch.asarray(np.random.default_rng(seed).standard_normal(s))
        for s in ((2, 6, 3, 4), (6,), (6,))
    )
    for groups in (1, 3, 6):
        ours = lm.group_norm(x, w, b, groups, 1e-5)
        theirs = F.group_norm(x, groups, w, b, 1e-5)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)
    ours = lm.layer_norm(x, w[:4], b[:4], 1e-5)
    theirs = F.layer_norm(x, (4,), w[:4], b[:4], 1e-5)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


@given(seed=SEEDS, shift=st.floats(-9, 9), scale=st.floats(0.1, 9))
def test_norms_ignore_shift_and_scale(seed, shift, scale):
    x = np.random.default_rng(seed).standard_normal((2, 4, 5))
    moved = scale * x + shift
    for norm in (
        lambda z: lm.group_norm(z, None, None, 2, 0.0),
        lambda z: lm.layer_norm(z, None, None, 0.0),
    ):
        np.testing.assert_allclose(norm(moved), norm(x), atol=1e-10)
    y = lm.group_norm(x, None, None, 2, 0.0).reshape(2, 2, -1)
    np.testing.assert_allclose(y.mean(axis=-1), np.zeros((2, 2)), atol=1e-14)
    np.testing.assert_allclose(y.var(axis=-1), np.ones((2, 2)), rtol=1e-13)


def test_as_many_groups_as_channels_or_one():
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    np.testing.assert_array_equal(
        lm.group_norm(x, None, None, 4, 1e-5), lm.layer_norm(x, None, None, 1e-5)
    )
    flat = lm.layer_norm(x.reshape(3, -1), None, None, 1e-5).reshape(x.shape)
    np.testing.assert_array_equal(lm.group_norm(x, None, None, 1, 1e-5), flat)


@pytest.mark.parametrize("groups", [0, -1, 3, 8])
def test_groups_that_do_not_divide_the_channels_are_refused(groups):
    with pytest.raises(ValueError, match=f"{groups} groups do not divide 4 channels"):
        lm.group_norm(np.ones((1, 4, 2)), None, None, groups, 1e-5)


@given(data=st.data(), factor=st.sampled_from([None, 1, 2, 3]))
def test_upsampling_repeats_pixels_and_padding_adds_zeros(xp, dtype, to_numpy, data, factor):
    x = data.draw(strategies.arrays(strategies.shapes(4, 4), xp, dtype))
    n, c, h, w = x.shape
    f = 2 if factor is None else factor
    large = lm.upsample_nearest(x) if factor is None else lm.upsample_nearest(x, factor)
    padded = lm.pad_bottom_right(x)
    assert large.dtype == padded.dtype == x.dtype
    assert large.shape == (n, c, f * h, f * w) and padded.shape == (n, c, h + 1, w + 1)
    host = to_numpy(x)
    for i, j in np.ndindex(f * h, f * w):
        assert np.array_equal(to_numpy(large)[:, :, i, j], host[:, :, i // f, j // f])
    for i, j in np.ndindex(h + 1, w + 1):
        inside = host[:, :, i, j] if i < h and j < w else np.zeros((n, c))
        assert np.array_equal(to_numpy(padded)[:, :, i, j], inside)


def test_three_halvings_padded_below_see_nothing_above_their_block():
    """The pixels that reach a latent, found by a convolution of ones with torch."""
    torch = pytest.importorskip("torch")
    ones = torch.ones((1, 1, 3, 3))
    below = lm.pad_bottom_right

    def around(x):
        return torch.nn.functional.pad(x, (1, 1, 1, 1))

    def seen_by(i, pad):
        image = torch.zeros((1, 1, 48, 48), requires_grad=True)
        x = image
        for _ in range(3):
            x = torch.nn.functional.conv2d(pad(x), ones, stride=2)
        assert x.shape == (1, 1, 6, 6)
        (gradient,) = torch.autograd.grad(x[0, 0, i, i], image)
        rows = gradient[0, 0].any(dim=1).nonzero().ravel().tolist()
        return rows[0], rows[-1]

    assert seen_by(2, below) == (16, 16 + 14)
    assert seen_by(2, around) == (16 - 7, 16 + 7)


@given(data=st.data(), rank=st.integers(1, 3), scale=st.sampled_from([0.0, 0.5, -2.0]))
def test_low_rank_update_of_a_kernel_is_two_convolutions(
    xp, dtype, xp_assert_close, to_numpy, data, rank, scale
):
    """At the one position of an image as large as the kernel: W x + s B (A x)."""
    size = data.draw(st.sampled_from([(), (1, 1), (3, 3)]))
    w = data.draw(strategies.arrays((2, 3, *size), xp, dtype))
    down = data.draw(strategies.arrays((rank, 3, *size), xp, dtype))
    up = data.draw(strategies.arrays((2, rank, *(1 for _ in size)), xp, dtype))
    W, A = (to_numpy(z).astype(float).reshape(z.shape[0], -1) for z in (w, down))
    B = to_numpy(up).astype(float).reshape(2, rank)
    x = np.linspace(-1, 1, W.shape[1])
    got = lm.low_rank_update(w, down, up, scale)
    assert got.shape == w.shape and got.dtype == w.dtype
    magnitude = np.abs(W) + abs(scale) * np.abs(B) @ np.abs(A)
    y = to_numpy(got).astype(float).reshape(2, -1) @ x
    bound = (4 + rank) * float(xp.finfo(w.dtype).eps) * (magnitude @ np.abs(x) + 1e-30)
    assert np.all(np.abs(y - (W @ x + scale * B @ (A @ x))) <= 4 * bound)


def test_low_rank_update_without_up_changes_nothing(xp):
    w = xp.ones((2, 3))
    down = xp.ones((1, 3))
    up = xp.zeros((2, 1))
    assert bool(xp.all(lm.low_rank_update(w, down, up, 3.0) == w))
