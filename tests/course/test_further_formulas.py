"""The formulas of the pages after the chapters, each computed in a second way."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from ldmref.datasets.emoji import small_emoji
from ldmref.datasets.emoji.font import emoji_list
from ldmref.io.quantized.ggml import dequantize_q4_0, dequantize_q8_0

RNG = np.random.default_rng(0)
PAGES = Path(__file__).parents[2] / "docs" / "course"


def slope(function, x, h=1e-6):
    """Return the gradient of a function of an array by central differences."""
    result = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[at] = h
        result[at] = (function(x + step) - function(x - step)) / (2 * h)
    return result


def test_gradients_of_a_zero_convolution():
    w, h, b, target = np.zeros((2, 3)), RNG.standard_normal(3), np.zeros(2), np.ones(2)

    def loss(w, h, b):
        return np.sum((w @ h + b - target) ** 2)

    dy = 2 * (w @ h + b - target)
    assert np.allclose(slope(lambda v: loss(v, h, b), w), np.outer(dy, h), atol=1e-7)
    assert np.allclose(slope(lambda v: loss(w, h, v), b), dy, atol=1e-7)
    assert np.array_equal(slope(lambda v: loss(w, v, b), h), np.zeros(3))
    w = RNG.standard_normal((2, 3))
    dy = 2 * (w @ h + b - target)
    assert np.allclose(slope(lambda v: loss(w, v, b), h), w.T @ dy, atol=1e-6)


def test_gradients_of_two_factors():
    w, x = RNG.standard_normal((4, 5)), RNG.standard_normal((5, 7))
    a, b, factor = RNG.standard_normal((2, 5)), RNG.standard_normal((4, 2)), 0.7

    def loss(a, b):
        return np.sum(((w + factor * b @ a) @ x) ** 2)

    g = 2 * (w + factor * b @ a) @ x @ x.T
    assert np.allclose(slope(lambda v: loss(a, v), b), factor * g @ a.T, rtol=1e-6, atol=1e-5)
    assert np.allclose(slope(lambda v: loss(v, b), a), factor * b.T @ g, rtol=1e-6, atol=1e-5)


def test_the_denoiser_of_finite_data():
    """By Tweedie's formula: x + sigma^2 times the gradient of the log density."""
    data, x, sigma = RNG.standard_normal((6, 2)), RNG.standard_normal(2), 0.8

    def log_density(x):
        return np.log(np.sum(np.exp(-((x - data) ** 2).sum(axis=1) / (2 * sigma**2))))

    weights = np.exp(-((x - data) ** 2).sum(axis=1) / (2 * sigma**2))
    denoised = weights @ data / weights.sum()
    assert np.allclose(denoised, x + sigma**2 * slope(log_density, x), atol=1e-8)


def test_the_error_of_rounding():
    for kind, bits, largest in ((np.float16, 10, 65504.0), (np.float32, 23, None)):
        info = np.finfo(kind)
        x = np.exp(RNG.uniform(np.log(float(info.tiny)), np.log(float(info.max)), 10_000))
        x = x[x <= float(info.max)]
        assert np.all(np.abs(x.astype(kind).astype(float) - x) <= 2.0 ** (-bits - 1) * x)
        assert info.nmant == bits and (largest is None or float(info.max) == largest)


def test_blocks_of_integers():
    """A block that is packed by the formula is unpacked by ldmref, half a scale away at most."""
    w = RNG.standard_normal(32)
    d = np.float16(np.abs(w).max() / 127)
    q = np.round(w / float(d)).astype(np.int8)
    block = np.concatenate([np.array([d]).view(np.uint8), q.view(np.uint8)])
    got = dequantize_q8_0(block[None])[0]
    assert np.allclose(got, float(d) * q, rtol=1e-6)
    assert np.abs(got - w).max() <= 0.5 * float(d) * (1 + 1e-6)
    d = np.float16(w[np.abs(w).argmax()] / -8)
    q = np.clip(np.floor(w / float(d) + 8.5), 0, 15).astype(np.uint8)
    packed = q[:16] | q[16:] << 4
    block = np.concatenate([np.array([d]).view(np.uint8), packed])
    got = dequantize_q4_0(block[None])[0]
    assert np.allclose(got, float(d) * (q - 8.0), rtol=1e-6)
    assert np.abs(got - w).max() <= abs(float(d)) * (1 + 2.0**-10)


def test_the_noise_of_a_batch():
    """Over all batches of three independent examples, exactly."""
    gradients = RNG.standard_normal((4, 2))
    means = np.array([np.mean(batch, axis=0) for batch in itertools.product(gradients, repeat=3)])
    assert np.allclose(means.mean(axis=0), gradients.mean(axis=0))
    one = np.cov(gradients.T, bias=True)
    assert np.allclose(np.cov(means.T, bias=True), one / 3)


def test_the_floor_of_a_loss():
    """For a discrete law of (x, v), with the mean of v given x."""
    p = RNG.dirichlet(np.ones(12)).reshape(3, 4)
    v, f = RNG.standard_normal((3, 4)), RNG.standard_normal(3)
    best = (p * v).sum(axis=1) / p.sum(axis=1)
    loss = np.sum(p * (f[:, None] - v) ** 2)
    apart = np.sum(p * (f - best)[:, None] ** 2) + np.sum(p * (best[:, None] - v) ** 2)
    assert np.isclose(loss, apart)


def test_the_small_emoji_of_the_page_on_memorised_images():
    """Their number, their groups, and what is not among them."""
    text = " ".join((PAGES / "memorised-images.md").read_text("utf-8").split())
    counts = {
        "hearts": "heart",
        "fruits": "food-fruit",
        "of sky and weather": "sky & weather",
        "vegetables": "food-vegetable",
        "sweets": "food-sweet",
        "geometric shapes": "geometric",
    }
    for words, group in counts.items():
        assert f"{len(small_emoji(group))} {words}" in text
    assert f"the {len(small_emoji())} [small emoji]" in text
    assert sum(len(small_emoji(group)) for group in counts.values()) == len(small_emoji()) == 156
    own = {emoji.subgroup for emoji in emoji_list() if emoji.name in dict(small_emoji())}
    assert own == {*counts.values()}
    assert f"{len(emoji_list()):,} names" in text
    assert not [name for name, _ in small_emoji() if "tree" in name or "cat" in name.split()]


def test_the_numbers_of_formats_on_the_page():
    """Significant bits, the smallest numbers and the largest, as torch and NumPy state them."""
    torch = pytest.importorskip("torch")
    page = (PAGES / "number-formats.md").read_text("utf-8")
    rows = re.findall(r"^\| (\w*float\d+) \| (\d+) \| (\S+) \| (\S+) \| (\S+) \|$", page, re.M)
    assert [row[0] for row in rows] == ["float32", "float16", "bfloat16"]
    for name, bits, normal, smallest, largest in rows:
        info = torch.finfo(getattr(torch, name))
        assert info.eps == 2.0 ** (1 - int(bits))
        found = {normal: info.tiny, smallest: info.tiny * info.eps, largest: info.max}
        for stated, number in found.items():
            digits = len(stated.partition("e")[0].replace(".", ""))
            assert float(stated) == float(f"{number:.{digits - 1}e}"), (name, stated, number)
        if name != "bfloat16":
            own = np.finfo(name)
            assert (own.eps, own.tiny, own.max) == (info.eps, info.tiny, info.max)


def test_no_page_says_that_float16_is_as_precise_as_float32():
    """float16 has 11 of its 24 significant bits."""
    for page in PAGES.parent.glob("**/*.md"):
        assert not re.search(r"float16\s+has\s+the\s+precision", page.read_text("utf-8")), page
