"""The backends' operations against the definitions in `ldmref.math`, in float64."""

import numpy as np
import pytest

from ldmref import math as lm
from ldmref.backends import get_backend
from ldmref.models.layers import mask_bias
from ldmref.testing.conformance import EPS

RNG = np.random.default_rng(13)
X = RNG.standard_normal((2, 8, 5, 3))
WEIGHT, BIAS = RNG.standard_normal((2, 8))
Q, K, V = (RNG.standard_normal((2, 3, n, 4)) for n in (5, 7, 7))
MASK = np.arange(7).reshape(1, 1, 1, 7) % 3 != 1
MASK = np.concatenate([MASK, MASK[..., ::-1]]).astype(np.int64)
MASK[..., 0] = 1  # which every query sees
# operation -> (the backend's, the definition); a makes arrays of the backend's library
PAIRS = {
    "group_norm": (
        lambda ops, a: ops.group_norm(a(X), a(WEIGHT), a(BIAS), 4, 1e-6),
        lambda a: lm.group_norm(a(X), a(WEIGHT), a(BIAS), 4, 1e-6),
    ),
    "group_norm_silu": (
        lambda ops, a: ops.group_norm_silu(a(X), a(WEIGHT), a(BIAS), 2, 1e-5),
        lambda a: lm.silu(lm.group_norm(a(X), a(WEIGHT), a(BIAS), 2, 1e-5)),
    ),
    "layer_norm": (
        lambda ops, a: ops.layer_norm(a(X), a(WEIGHT[:3]), a(BIAS[:3]), 1e-5),
        lambda a: lm.layer_norm(a(X), a(WEIGHT[:3]), a(BIAS[:3]), 1e-5),
    ),
    "attention": (
        lambda ops, a: ops.attention(a(Q), a(K), a(V)),
        lambda a: lm.scaled_dot_product_attention(a(Q), a(K), a(V)),
    ),
    "causal attention": (
        lambda ops, a: ops.attention(a(Q), a(Q), a(Q), causal=True),
        lambda a: lm.scaled_dot_product_attention(a(Q), a(Q), a(Q), causal=True),
    ),
    "attention with a mask": (
        lambda ops, a: ops.attention(a(Q), a(K), a(V), bias=mask_bias(ops, a(MASK))),
        lambda a: lm.scaled_dot_product_attention(a(Q), a(K), a(V), mask=a(MASK) != 0),
    ),
    "causal attention with a mask": (
        lambda ops, a: ops.attention(a(Q), a(Q), a(Q), True, mask_bias(ops, a(MASK[..., :5]))),
        lambda a: lm.scaled_dot_product_attention(
            a(Q), a(Q), a(Q), causal=True, mask=a(MASK[..., :5]) != 0
        ),
    ),
    "silu": (lambda ops, a: ops.silu(a(4 * X)), lambda a: lm.silu(a(4 * X))),
    "gelu": (lambda ops, a: ops.gelu(a(4 * X)), lambda a: lm.gelu(a(4 * X))),
    "quick_gelu": (lambda ops, a: ops.quick_gelu(a(4 * X)), lambda a: lm.quick_gelu(a(4 * X))),
    "upsample2x": (lambda ops, a: ops.upsample2x(a(X)), lambda a: lm.upsample_nearest(a(X))),
    "pad_bottom_right": (
        lambda ops, a: ops.pad_bottom_right(a(X)),
        lambda a: lm.pad_bottom_right(a(X)),
    ),
}


@pytest.fixture(scope="module", params=["numpy", "torch"])
def backend(request):
    pytest.importorskip(request.param)
    return get_backend(request.param, dtype="float64")


@pytest.mark.parametrize("axis", [0, 2, -2, 3])
def test_entries_are_counted_along_an_axis(backend, axis):
    x = np.full(X.shape, np.nan)
    x[0, 0] = 300.0
    counted = backend.to_numpy(backend.count_from_zero(backend.asarray(x), axis))
    assert counted.shape == x.shape and counted.dtype == np.float64
    np.testing.assert_array_equal(counted, np.indices(x.shape)[axis])


@pytest.mark.parametrize(
    ("of_x", "others"),
    [((2, 1, 5, 1), [(1, 8, 5, 3)]), ((1, 1, 3), [(2, 1, 1), (1, 4, 1)]), ((2, 5, 3), [(1, 5, 1)])],
    ids=["an axis each", "two others", "no axis"],
)
def test_an_array_is_repeated_where_others_are_longer(backend, of_x, others):
    x = RNG.standard_normal(of_x)
    like = [np.full(shape, np.nan) for shape in others]
    got = backend.broadcast_like(backend.asarray(x), *map(backend.asarray, like))
    want = np.broadcast_to(x, np.broadcast_shapes(of_x, *others))
    np.testing.assert_array_equal(backend.to_numpy(got), want)


def test_zeros_are_of_the_type_of_an_array(backend):
    for like in (backend.asarray(X), backend.asarray(MASK)):
        zeros = backend.zeros((2, 0, 3), like), backend.zeros((4, 1), like)
        assert [tuple(x.shape) for x in zeros] == [(2, 0, 3), (4, 1)]
        assert {x.dtype for x in zeros} == {like.dtype}
        assert not backend.to_numpy(zeros[1]).any()


def test_a_long_text_is_counted_in_float32_by_half_precision():
    pytest.importorskip("torch")
    ops = get_backend("torch", dtype="bfloat16")
    counted = ops.to_numpy(ops.count_from_zero(ops.asarray(np.zeros((1, 3000))), 1))
    np.testing.assert_array_equal(counted[0], np.arange(3000))


@pytest.mark.parametrize("name", PAIRS)
def test_operation_equals_its_definition(backend, name):
    operation, definition = PAIRS[name]
    got = backend.to_numpy(operation(backend, backend.asarray))
    want = backend.to_numpy(definition(backend.asarray))
    assert got.dtype == want.dtype == np.float64
    # both err by at most eps (4 + sqrt(terms)) (`ldmref.testing`); attention sums d + keys <= 11
    bound = 2 * EPS["float64"] * (4 + np.sqrt(11)) * np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=bound)
