"""The displayed formulas of chapter 7, the network."""

import numpy as np
import pytest

import ldmref
from ldmref.backends import get_backend
from ldmref.math import attention_map, timestep_embedding
from ldmref.models import layers
from ldmref.models.params import Params


def test_dot_products_of_embeddings():
    d = 16
    times = np.asarray([3.0, 40.0, 41.0, 700.0])
    e = timestep_embedding(times, d)
    frequencies = 10000.0 ** (-2 * np.arange(d // 2) / d)
    np.testing.assert_allclose(e[:, : d // 2], np.cos(times[:, None] * frequencies), atol=1e-10)
    gaps = times[:, None] - times
    expected = np.cos(frequencies * gaps[..., None]).sum(axis=-1)
    np.testing.assert_allclose(e @ e.T, expected, atol=1e-10)


@pytest.mark.parametrize("width", [1, 3, 5])
def test_variance_of_dot_products(width):
    # entries that are -1 or 1 with equal probability have mean 0 and variance 1
    signs = np.asarray(list(np.ndindex(*(2,) * width))) * 2.0 - 1.0
    dots = signs @ signs.T
    assert dots.mean() == pytest.approx(0.0)
    assert dots.var() == pytest.approx(width)
    assert (dots / np.sqrt(width)).var() == pytest.approx(1.0)


def test_the_time_is_added_between_the_convolutions():
    """The formula of the residual block against `layers.resnet_block`, with 1 x 1 kernels."""
    ops = get_backend("numpy")
    rng = np.random.default_rng(0)

    def weights(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    p = Params(
        norm1=Params(weight=weights(4), bias=weights(4)),
        conv1=Params(weight=weights(4, 4, 1, 1), bias=weights(4)),
        time_emb_proj=Params(weight=weights(4, 6), bias=weights(4)),
        norm2=Params(weight=weights(4), bias=weights(4)),
        conv2=Params(weight=weights(4, 4, 1, 1), bias=weights(4)),
    )
    x = weights(2, 4, 3, 3)
    emb = weights(2, 6)

    def silu(y):
        return y / (1 + np.exp(-y))

    def norm(q, y):
        g = y.reshape(2, 2, 2, 3, 3)
        g = (g - g.mean((2, 3, 4), keepdims=True)) / np.sqrt(g.var((2, 3, 4), keepdims=True) + 1e-5)
        return g.reshape(y.shape) * q.weight[:, None, None] + q.bias[:, None, None]

    def conv(q, y):
        return np.einsum("oi,nihw->nohw", q.weight[:, :, 0, 0], y) + q.bias[:, None, None]

    h = conv(p.conv1, silu(norm(p.norm1, x)))
    h = h + (silu(emb) @ p.time_emb_proj.weight.T + p.time_emb_proj.bias)[:, :, None, None]
    expected = x + conv(p.conv2, silu(norm(p.norm2, h)))
    np.testing.assert_allclose(layers.resnet_block(ops, p, x, emb, 2, 1e-5), expected, atol=1e-4)


def test_skips_are_concatenated_below_first():
    """The page cuts the columns behind the channels from below; they must be the skips'."""
    config = ldmref.load().config.unet
    weights = ldmref.load().params["unet"]
    below = {"0": (160, 160), "1": (160, 128), "2": (128, 96)}
    skips = {"0": (160, 128), "1": (128, 96), "2": (96, 96)}
    assert config.block_out_channels == (96, 128, 160)
    for block, widths in below.items():
        for i, width in enumerate(widths):
            conv = weights.up_blocks[block].resnets[str(i)].conv1.weight
            assert conv.shape[1] == width + skips[block][i]


def test_shapes_of_cross_attention_in_the_table():
    rng = np.random.default_rng(0)
    heads, positions, tokens, width = 2, 6, 5, 3
    q = rng.standard_normal((1, heads, positions, width))
    k = rng.standard_normal((1, heads, tokens, width))
    assert attention_map(q, k).shape == (1, heads, positions, tokens)
    assert attention_map(q, q).shape == (1, heads, positions, positions)


def test_contrastive_loss():
    """Two cross-entropies of the pairs: log n without information, 0 for separate pairs."""
    rng = np.random.default_rng(0)

    def loss(a, b, r):
        scores = a @ b.T / r
        by_image = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        by_text = scores - np.log(np.exp(scores).sum(axis=0, keepdims=True))
        return -(np.trace(by_image) + np.trace(by_text)) / (2 * len(a))

    same = np.ones((8, 3)) / np.sqrt(3)
    assert loss(same, same, 0.1) == pytest.approx(np.log(8))
    assert loss(np.eye(8), np.eye(8), 0.02) < 1e-15
    a, b = rng.standard_normal((2, 4, 3))
    by_hand = 0.0
    for i in range(4):
        own = np.exp(a[i] @ b[i] / 0.5)
        by_hand -= np.log(own / sum(np.exp(a[i] @ b[j] / 0.5) for j in range(4)))
        by_hand -= np.log(own / sum(np.exp(a[j] @ b[i] / 0.5) for j in range(4)))
    assert loss(a, b, 0.5) == pytest.approx(by_hand / 8)
