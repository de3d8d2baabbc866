"""Layers of attention with masks, groups of heads, and masks as biases."""

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.models.layers import MASKED, attention, mask_bias, repeat_heads, self_attention
from ldmref.models.params import init, tree_map
from ldmref.models.specs import attention_spec, linear_spec

RNG = np.random.default_rng(3)
WIDTH, HEADS = 12, 3
X = RNG.standard_normal((2, 5, WIDTH))
CONTEXT = RNG.standard_normal((2, 7, 8))
MASK = np.arange(7) < np.array([[7], [4]])
EPS = 2.0**-52


def open_backend(name):
    library = {"onnx": "onnxruntime"}.get(name, name)
    pytest.importorskip(library)
    return get_backend(name, dtype="float64" if name in ("numpy", "torch") else None)


@pytest.fixture(params=["numpy", "torch", "onnx", "openvino"])
def ops(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return open_backend(request.param)


def run(ops, network, spec, *arrays):
    """Compute a network of a backend, its parameters and arrays; on the host."""
    params = tree_map(ops.weight, init(spec, 1))
    with ops.inference():
        return ops.to_numpy(ops.compile(network, params)(*map(ops.asarray, arrays)))


def close(got, want):
    """Compare with float64: sums of at most 12 terms, three products deep, of numbers near 1."""
    eps = EPS if got.dtype == np.float64 else 2.0**-23
    np.testing.assert_allclose(got, want, rtol=0, atol=3 * 12 * eps * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_keys_that_a_mask_hides_are_as_if_they_were_not_there(ops, kind):
    """Each row of a batch equals that row alone, with the text cut to its length."""

    def masked(ops, p, x, context, mask):
        return attention(ops, p, x, context, HEADS, bias=mask_bias(ops, mask))

    def plain(ops, p, x, context):
        return attention(ops, p, x, context, HEADS)

    spec = attention_spec(WIDTH, 8)
    got = run(ops, masked, spec, X, CONTEXT, MASK.astype(kind))
    alone = get_backend("numpy", dtype="float64")
    for row, length in enumerate(MASK.sum(axis=1)):
        one = slice(row, row + 1)
        want = run(alone, plain, spec, X[one], CONTEXT[one, :length])
        close(got[one], want)


@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_takes_a_mask(ops, causal):
    def masked(ops, p, x, mask):
        return self_attention(ops, p, x, HEADS, causal, mask_bias(ops, mask))

    def plain(ops, p, x):
        return self_attention(ops, p, x, HEADS, causal)

    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    spec = {name: linear_spec(WIDTH, WIDTH) for name in names}
    mask = (np.arange(5) < np.array([[5], [3]])).astype(np.int64)
    got = run(ops, masked, spec, X, mask)
    alone = get_backend("numpy", dtype="float64")
    for row, length in enumerate((5, 3)):
        want = run(alone, plain, spec, X[row : row + 1, :length])
        close(got[row : row + 1, :length], want)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_a_query_without_keys_gets_a_mean_of_the_values(name, dtype):
    """Not NaN, which would spread from rows of padding to the whole batch."""
    if (name, dtype) == ("numpy", "bfloat16"):
        pytest.skip("NumPy has no bfloat16")
    pytest.importorskip(name)
    ops = get_backend(name, dtype=dtype)
    q, k, v = (ops.asarray(RNG.standard_normal((1, 2, 4, 8))) for _ in range(3))
    mask = np.zeros((1, 4), np.int64)
    y = ops.to_numpy(ops.attention(q, k, v, bias=mask_bias(ops, ops.asarray(mask))))
    v = ops.to_numpy(v)
    margin = 2.0**-7  # of bfloat16
    low, high = v.min(axis=2, keepdims=True), v.max(axis=2, keepdims=True)
    assert np.all((y >= low - margin * np.abs(v).max()) & (y <= high + margin * np.abs(v).max()))


def test_a_mask_of_booleans_becomes_a_bias():
    ops = get_backend("numpy", dtype="float64")
    bias = RNG.standard_normal((1, HEADS, 7, 7))
    seen = MASK[:, None, None, :]
    for mask in (MASK, MASK.astype(float), seen):
        got = mask_bias(ops, mask, bias)
        assert got.shape == (2, HEADS, 7, 7)
        assert np.array_equal(got, np.where(seen, bias, MASKED))
    assert np.array_equal(mask_bias(ops, MASK), np.where(seen, 0.0, MASKED))
    assert mask_bias(get_backend("numpy", dtype="float16"), MASK).dtype == np.float32


@pytest.mark.parametrize("heads", [2, 4, 6])
def test_heads_of_keys_are_shared_by_groups_of_queries(ops, heads):
    """Against a loop over the heads of the queries."""
    x = RNG.standard_normal((2, 2, 5, 4))

    def network(ops, p, x):
        return repeat_heads(ops, x, heads) * 1.0

    got = run(ops, network, {}, x)
    assert got.shape == (2, heads, 5, 4)
    for head in range(heads):
        close(got[:, head], x[:, head // (heads // 2)])


def test_a_head_for_each_query_is_not_copied():
    x = RNG.standard_normal((1, 4, 3, 2))
    assert repeat_heads(get_backend("numpy"), x, 4) is x
