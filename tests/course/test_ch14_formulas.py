"""The displayed formulas of docs/course/14-transformers-for-images.md, computed in a second way."""

import cmath
import math
import re

import numpy as np
import pytest
from course_pages import COURSE

from ldmref import math as lm
from ldmref.backends import get_backend
from ldmref.cases import golden_model
from ldmref.families.sd3.network import joint_block
from ldmref.models import flatten, model_spec, preset
from ldmref.models.params import Params

PAGE = (COURSE / "14-transformers-for-images.md").read_text("utf-8")
RNG = np.random.default_rng(0)


def page_names():
    """Run the first block of the page and the one that defines the joint block, without plots."""
    names = {}
    codes = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for code in (codes[0], next(code for code in codes if "def block(" in code)):
        exec(re.sub(r"^.*\bplt\b.*$", "", code, flags=re.MULTILINE), names)
    return names


def shapes_of(name, start):
    """Return the shapes of one block of a preset's transformer."""
    shapes = flatten(model_spec(preset(name))["transformer"])
    return [shape for key, shape in shapes.items() if key.startswith(start)]


def test_product_of_turned_pairs():
    q, k = complex(*RNG.standard_normal(2)), complex(*RNG.standard_normal(2))
    for i, j, rate in ((0, 3, 0.2), (5, 2, 1.0), (7, 7, 0.01)):
        turned = q * cmath.exp(1j * rate * i) * (k * cmath.exp(1j * rate * j)).conjugate()
        expected = (q * k.conjugate() * cmath.exp(1j * rate * (i - j))).real
        assert math.isclose(turned.real, expected, rel_tol=1e-12)
        rows = [
            lm.rotary_embedding(np.asarray([[z.real, z.imag]]), np.asarray([[rate * at]]), (2,))[0]
            for z, at in ((q, i), (k, j))
        ]
        assert math.isclose(float(rows[0] @ rows[1]), expected, rel_tol=1e-12)


def test_mean_score_of_a_vector_with_itself():
    """By simulation; the standard deviation of the mean is the bound."""
    pairs = (RNG.standard_normal((100_000, 2)) @ [1, 1j])[:, None]
    for angle in (0.0, 0.3, 2.0):
        score = (pairs * pairs.conj() * cmath.exp(1j * angle)).real
        error = 5 * score.std() / math.sqrt(score.size)
        assert abs(score.mean() - 2 * math.cos(angle)) <= error
    rates = [base ** (-2 * np.arange(28) / 56) for base in (10000.0, 256.0)]
    assert (rates[0] < 0.02).sum() > (rates[1] < 0.02).sum()


def test_a_block_begins_as_the_identity():
    """All rows of the steering layers are zero, all other weights are random."""
    block = page_names()["block"]
    weights = golden_model("sd3-medium").params["transformer"]["transformer_blocks"]["0"]
    zeros = {
        norm: {"linear": {n: 0.0 * np.asarray(v) for n, v in weights[norm]["linear"].items()}}
        for norm in ("norm1", "norm1_context")
    }
    new = {**weights, **zeros}
    image, text = RNG.standard_normal((2, 16, 16)), RNG.standard_normal((2, 5, 16))
    got = block(new, image, text, RNG.standard_normal((2, 16)), 2)
    np.testing.assert_array_equal(got[0], text)
    np.testing.assert_array_equal(got[1], image)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_block_of_the_page_is_the_block_of_the_network(seed):
    """Both err by a few thousand units at most: sums of 16 and 64 products, one after the other."""
    names = page_names()
    rng = np.random.default_rng(seed)
    weights = golden_model("sd3-medium").params["transformer"]["transformer_blocks"]["0"]
    inputs = [rng.standard_normal(shape) for shape in ((3, 4, 16), (3, 7, 16), (3, 16))]
    ops = get_backend("numpy", dtype="float64")
    theirs = joint_block(ops, Params(weights), *inputs, 2)
    for ours, one in zip(names["block"](weights, *inputs, 2), theirs, strict=True):
        np.testing.assert_allclose(ours, one, rtol=0, atol=1e-12)


def test_the_map_has_four_parts():
    """Attention of joined rows is that of each stream to both, weighted by their sums."""
    (q, k, v), (qc, kc, vc) = RNG.standard_normal((3, 4, 8)), RNG.standard_normal((3, 5, 8))
    joined = lm.attention_map(np.concatenate([q, qc]), np.concatenate([k, kc]))
    scores = np.exp(q @ k.T / math.sqrt(8)), np.exp(q @ kc.T / math.sqrt(8))
    total = scores[0].sum(1) + scores[1].sum(1)
    np.testing.assert_allclose(joined[:4, :4], scores[0] / total[:, None], rtol=1e-12)
    np.testing.assert_allclose(joined[:4, 4:], scores[1] / total[:, None], rtol=1e-12)
    mixed = joined @ np.concatenate([v, vc])
    swapped = lm.attention_map(np.concatenate([qc, q]), np.concatenate([kc, k]))
    again = swapped @ np.concatenate([vc, v])
    np.testing.assert_allclose(np.concatenate([again[5:], again[:5]]), mixed, rtol=1e-12)


def test_normed_scores_are_bounded():
    for scale in (0.1, 1.0, 100.0):
        q, k = (lm.rms_norm(scale * RNG.standard_normal((50, 16)), None, 0.0) for _ in "qk")
        np.testing.assert_allclose(np.linalg.norm(q, axis=1), 4.0, rtol=1e-12)
        assert np.abs(q @ k.T / 4).max() <= 4.0 + 1e-12
    assert abs(float(q[0] @ q[0]) / 4 - 4.0) < 1e-12  # the bound is reached


def test_a_sandwich_adds_at_most_one():
    x = RNG.standard_normal((40, 16))
    size = np.sqrt((x**2).mean(axis=1))
    for layer in range(12):
        weights = 10.0 ** RNG.uniform(-2, 3) * RNG.standard_normal((16, 16))
        change = lm.rms_norm(np.tanh(lm.rms_norm(x, None, 1e-5) @ weights), None, 1e-5)
        x = x + np.tanh(RNG.standard_normal(16) * 5) * change
        added = np.sqrt((x**2).mean(axis=1)) - size
        assert np.all(added <= layer + 1)


def test_parameters_of_the_blocks():
    """Matrices of one block of each preset; biases and norms are not counted."""
    for name, start, d, times in (
        ("sd3-medium", "transformer_blocks.0.", 1536, 36),
        ("flux-dev", "transformer_blocks.0.", 3072, 36),
        ("flux-dev", "single_transformer_blocks.0.", 3072, 15),
    ):
        matrices = [s for s in shapes_of(name, start) if len(s) == 2]
        assert sum(math.prod(s) for s in matrices) == times * d**2


def test_work_of_a_block():
    """Count the products of attention and matrices of a block with 12 d^2 weights."""
    n, d, heads = 40, 8, 2
    operations = []

    def product(a, b):
        operations.append(2 * math.prod(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
                          * a.shape[-2] * a.shape[-1] * b.shape[-1])  # fmt: skip
        return a @ b

    x = RNG.standard_normal((n, d))
    q, k, v = (product(x, RNG.standard_normal((d, d))) for _ in range(3))
    q, k, v = (z.reshape(n, heads, d // heads).swapaxes(0, 1) for z in (q, k, v))
    mixed = product(product(q, k.swapaxes(1, 2)), v).swapaxes(0, 1).reshape(n, d)
    product(mixed, RNG.standard_normal((d, d)))
    product(product(x, RNG.standard_normal((d, 4 * d))), RNG.standard_normal((4 * d, d)))
    assert sum(operations) == 24 * n * d**2 + 4 * n**2 * d
    assert math.isclose(4 * n**2 * d / (24 * n * d**2), n / (6 * d))


def test_the_table_says_what_the_configurations_say():
    sd3, flux, z = (preset(name).denoiser for name in ("sd3-medium", "flux-dev", "z-image"))
    row = {line.split("|")[1].strip(): line for line in PAGE.splitlines() if line.startswith("| ")}
    assert f"in {sd3.num_layers} joint blocks" in row["streams"]
    assert f"in {flux.num_layers} blocks, then one in {flux.num_single_layers}" in row["streams"]
    assert f"in {z.n_refiner_layers} blocks each, then one in {z.n_layers}" in row["streams"]
    for heads, width in (
        (sd3.num_attention_heads, sd3.attention_head_dim),
        (flux.num_attention_heads, flux.attention_head_dim),
        (z.n_heads, z.dim // z.n_heads),
    ):
        assert f"{heads * width}, {heads} heads of {width}" in row["channels, heads"]
    assert f"T5, {sd3.joint_attention_dim} channels" in row["text"]
    assert f"{z.cap_feat_dim} channels" in row["text"]
    assert f"base {z.rope_theta:g}" in row["places"]
    assert flux.axes_dims_rope == (16, 56, 56) and z.axes_dims == (32, 48, 48)
    assert z.hidden_dim * 3 == 8 * z.dim and sd3.qk_norm == ""


def test_what_the_table_of_mistakes_says():
    x = RNG.standard_normal((2, 3, 8))
    zeros = np.zeros((2, 8))
    without_one = lm.adaptive_layer_norm(x, zeros, zeros - 1)
    assert np.all(without_one == 0)  # F of zeros
    places = np.arange(3.0)[:, None]
    turned = lm.rotary_embedding(x, places, (8,))
    halves = np.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1)  # the other pairs
    other = lm.rotary_embedding(halves, places, (8,))
    np.testing.assert_allclose(
        np.linalg.norm(turned, axis=-1), np.linalg.norm(other, axis=-1), rtol=1e-12
    )
    scores = [z[0] @ z[0].T for z in (turned, other)]
    assert np.abs(scores[0] - scores[1]).max() > 0.1
    two = np.concatenate([places, places], axis=1)
    rates = 10000.0 ** (-2 * np.arange(2) / 8)  # of the head's width
    angles = np.concatenate([two[:, :1] * rates, two[:, 1:] * rates], axis=1)
    pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    right = lm.rotary_embedding(x, two, (4, 4))
    assert np.abs(pairs.real - right[..., 0::2]).max() > 1e-2
