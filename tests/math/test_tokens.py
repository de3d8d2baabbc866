"""Patches and rotary positions: loops, what they keep, and the networks that use them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref import math as lm
from ldmref.backends import get_backend
from ldmref.models.params import Params
from ldmref.models.transformer_layers import rms_norm, rotate
from ldmref.testing import strategies

EPS = np.finfo(np.float64).eps


@given(data=st.data(), size=st.integers(1, 3), rows=st.integers(1, 3), columns=st.integers(1, 3))
def test_a_token_holds_the_pixels_of_its_patch(xp, dtype, to_numpy, data, size, rows, columns):
    shape = (2, 3, rows * size, columns * size)
    x = data.draw(strategies.arrays(shape, xp, dtype))
    tokens = lm.patchify(x, size)
    assert tokens.dtype == x.dtype and tokens.shape == (2, rows * columns, 3 * size**2)
    host = to_numpy(x)
    for i, j in np.ndindex(rows, columns):
        patch = host[:, :, i * size : (i + 1) * size, j * size : (j + 1) * size]
        assert np.array_equal(to_numpy(tokens)[:, i * columns + j], patch.reshape(2, -1))
    back = lm.unpatchify(tokens, rows * size, columns * size, size)
    assert np.array_equal(to_numpy(back), host)


def test_the_default_is_two():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 6))
    tokens = lm.patchify(x)
    np.testing.assert_array_equal(tokens, lm.patchify(x, 2))
    np.testing.assert_array_equal(lm.unpatchify(tokens, 4, 6), x)


def test_a_linear_layer_on_patches_is_a_convolution_with_stride():
    torch = pytest.importorskip("torch")
    x, kernel = torch.randn(2, 3, 4, 6).double(), torch.randn(5, 3, 2, 2).double()
    theirs = torch.nn.functional.conv2d(x, kernel, stride=2).flatten(2).mT
    np.testing.assert_allclose(lm.patchify(x) @ kernel.flatten(1).mT, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("size", "shape"), [(0, (4, 4)), (3, (4, 6)), (2, (3, 4)), (2, (4, 5))])
def test_patches_that_do_not_fill_the_image_are_refused(size, shape):
    with pytest.raises(ValueError, match=rf"patches of {size} x {size} do not fill"):
        lm.patchify(np.zeros((1, 1, *shape)), size)


@pytest.mark.parametrize(("height", "width", "size"), [(4, 8, 2), (4, 6, 0), (3, 8, 2)])
def test_patches_that_do_not_make_the_image_are_refused(height, width, size):
    with pytest.raises(ValueError, match=f"6 patches of {size} x {size} do not make"):
        lm.unpatchify(np.zeros((1, 6, 4)), height, width, size)


@given(
    seed=st.integers(0, 999),
    widths=st.sampled_from([(2,), (2, 4), (4, 2, 2)]),
    base=st.sampled_from([256.0, 10000.0]),
)
def test_rotations_equal_those_of_the_networks(seed, widths, base):
    """Both err by an angle's rounding, up to 30 units, and 4 more."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 3, 5, sum(widths)))
    positions = rng.integers(0, 30, (5, len(widths))).astype(float)
    theirs = rotate(x, positions, widths, base)
    ours = lm.rotary_embedding(x, positions, widths, base)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2 * 34 * EPS * np.abs(x).max())


@given(data=st.data(), widths=st.sampled_from([(2,), (2, 4)]))
def test_rotations_keep_lengths_and_do_nothing_at_zero(xp, dtype, xp_assert_close, data, widths):
    x = data.draw(strategies.arrays((2, 3, sum(widths)), xp, dtype))
    where = xp.asarray([[float(i)] * len(widths) for i in range(3)], dtype=x.dtype)
    turned = lm.rotary_embedding(x, where, widths)
    length = xp.sum(x * x, axis=-1)
    xp_assert_close(xp.sum(turned * turned, axis=-1), length, like=x, ulps=24, scale=length)
    still = lm.rotary_embedding(x, 0.0 * where, widths)
    xp_assert_close(still, x, ulps=0)


def test_an_axis_turns_its_own_channels_only():
    x = np.ones((1, 6))
    moved = lm.rotary_embedding(x, np.asarray([[0.0, 2.0]]), (2, 4))
    np.testing.assert_array_equal(moved[0, :2], 1.0)
    assert np.all(moved[0, 2:] != 1.0)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((2,), "must be even and sum to 4"),
        ((1, 3), "must be even and sum to 4"),
        ((4,), "1 widths do not fit 2 axes"),
    ],
)
def test_widths_that_do_not_fit_are_refused(widths, message):
    with pytest.raises(ValueError, match=message):
        lm.rotary_embedding(np.zeros((3, 4)), np.zeros((3, 2)), widths)


@given(seed=st.integers(0, 999), eps=st.sampled_from([1e-6, 0.5]))
def test_rms_norm_equals_that_of_the_networks(seed, eps):
    """Each errs by 8 + sqrt(d) units."""
    ops = get_backend("numpy", dtype="float64")
    x, weight = np.random.default_rng(seed).standard_normal((2, 3, 16))
    theirs = rms_norm(ops, Params({"weight": weight[0]}), x, eps)
    ours = lm.rms_norm(x, weight[0], eps)
    np.testing.assert_allclose(ours, theirs, rtol=2 * 12 * EPS, atol=0)


@given(data=st.data(), factor=st.sampled_from([0.5, 2.0, 1024.0]))
def test_rms_norm_ignores_a_factor_and_bounds_the_length(xp, dtype, to_numpy, data, factor):
    """Powers of two: multiplication rounds nothing."""
    x = data.draw(strategies.arrays((3, 4), xp, dtype)) + 1.0
    y = lm.rms_norm(x, None, 0.0)
    host = to_numpy(y).astype(np.float64)
    assert np.array_equal(to_numpy(lm.rms_norm(factor * x, None, 0.0)), to_numpy(y), equal_nan=True)
    whole = np.isfinite(host).all(axis=-1)
    square = (host[whole] ** 2).mean(axis=-1)
    np.testing.assert_allclose(square, 1.0, rtol=0, atol=32 * np.finfo(to_numpy(x).dtype).eps)
    assert np.all((to_numpy(lm.rms_norm(x, None, 0.5)) ** 2).mean(axis=-1) < 1.0)


@given(seed=st.integers(0, 999))
def test_adaptive_norm_is_a_layer_norm_with_weights_of_each_example(seed):
    rng = np.random.default_rng(seed)
    x, (shift, scale) = rng.standard_normal((2, 3, 5)), rng.standard_normal((2, 2, 5))
    got = lm.adaptive_layer_norm(x, shift, scale)
    for i in range(2):
        want = lm.layer_norm(x[i], 1.0 + scale[i], shift[i], 1e-6)
        np.testing.assert_array_equal(got[i], want)
    zero = np.zeros((2, 5))
    plain = lm.layer_norm(x, None, None, 1e-6)
    np.testing.assert_array_equal(lm.adaptive_layer_norm(x, zero, zero), plain)
