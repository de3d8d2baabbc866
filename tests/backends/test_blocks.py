"""Full speed on images larger than a block, the pool's size, and trees of parameters for torch.

The blocks are made small: a small image has many, and the last one is shorter.
"""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref.backends.base import Backend
from ldmref.backends.fast import convolution, matmul, pointwise, threads
from ldmref.backends.fast import winograd as winograd_module
from ldmref.backends.fast.numpy import FastNumpyBackend
from ldmref.backends.fast.winograd import transform_weight, winograd
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import UsageError
from ldmref.models.params import unflatten
from ldmref.models.transformer_layers import divide_by_rms
from ldmref.testing.conformance import EPS

REFERENCE = NumpyBackend(dtype="float64")


def random_case(seed, n, h, w, c, out, k):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, h, w, c), np.float32)
    return x, rng.standard_normal((out, c, k, k), np.float32), rng.standard_normal(out, np.float32)


def assert_convolution(got, x, weight, bias, stride, padding, growth=1.0):
    """`growth`: of the spread of the terms over that of the direct sum's."""
    inputs = (x.transpose(0, 3, 1, 2), weight, bias)
    wide = [None if y is None else y.astype(np.float64) for y in inputs]
    want = REFERENCE.conv2d(*wide, stride, padding)
    terms = math.prod(weight.shape[1:])
    bound = EPS["float32"] * (4 + math.sqrt(terms)) * growth
    assert got.transpose(0, 3, 1, 2).shape == want.shape
    assert np.abs(got.transpose(0, 3, 1, 2) - want).max() < bound * max(
        math.sqrt(terms), np.abs(want).max()
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 3),
    h=st.integers(3, 14),
    w=st.integers(3, 14),
    c=st.integers(1, 12),
    out=st.sampled_from([1, 2, 9, 50]),
    k=st.sampled_from([1, 2, 3]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    block=st.integers(1, 400),
    pixels=st.sampled_from([0, 10**6]),
    biased=st.booleans(),
)
def test_convolutions_in_blocks(seed, n, h, w, c, out, k, stride, padding, block, pixels, biased):
    x, weight, bias = random_case(seed, n, h, w, c, out, k)
    bias = bias if biased else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "BLOCK", block)
        patch.setattr(convolution, "FEW_PIXELS", pixels)
        patch.setattr(matmul, "WORK", 1)
        patch.setattr(matmul, "count", lambda: 3)
        got = convolution.im2col(x, weight, bias, stride, padding)
    assert_convolution(got, x, weight, bias, stride, padding)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("out", [1, 2])
def test_few_outputs_of_many_channels(biased, out):
    """One product, then shifted sums."""
    x, weight, bias = random_case(0, 2, 6, 7, 40, out, 3)
    bias = bias if biased else None
    assert_convolution(convolution.im2col(x, weight, bias, 1, 1), x, weight, bias, 1, 1)


@pytest.mark.parametrize("name", ["silu", "gelu", "quick_gelu"])
@pytest.mark.parametrize("size", [19, 20, 21, 60, 61])
def test_activations_in_blocks(monkeypatch, name, size):
    """Every element once, also where a block ends."""
    monkeypatch.setattr(pointwise, "BLOCK", 20)
    x = np.linspace(-3.0, 3.0, 3 * size, dtype=np.float32).reshape(3, size)
    want = getattr(REFERENCE, name)(x.astype(np.float64))
    for layout in (x, np.asfortranarray(x)):
        before = layout.copy()
        got = getattr(FastNumpyBackend(), name)(layout)
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-7 * 3)
        assert got.strides == layout.strides and (layout == before).all()


@pytest.mark.parametrize("length", [1, 2, 3, 10, 11])
@pytest.mark.parametrize("axis", [-2, 1, 2])
def test_functions_of_items_in_parts(monkeypatch, length, axis):
    """Every item once, whatever the layout; the other arguments are the same for all parts."""
    monkeypatch.setattr(pointwise, "BLOCK", 40)
    plain = np.random.default_rng(0).standard_normal((2, length, 3, 4), np.float32)
    weight = np.arange(1.0, 5.0, dtype=np.float32)
    for x in (plain, plain.transpose(0, 2, 1, 3)):
        args = x, weight, 1e-6, "float32"
        got = FastNumpyBackend().call_function("norm", divide_by_rms, *args, axis=axis)
        np.testing.assert_allclose(got, divide_by_rms(*args), rtol=4 * EPS["float32"])
        assert got.shape == x.shape and got.dtype == x.dtype


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 4),
    h=st.integers(1, 30),
    w=st.integers(1, 30),
    m=st.sampled_from([2, 4]),
    tiles=st.integers(1, 40),
    chunk=st.integers(1, 100),
)
def test_winograd_in_blocks(seed, n, h, w, m, tiles, chunk):
    """Bands of rows that do not divide the image, and several images to a block."""
    x, weight, bias = random_case(seed, n, h, w, 3, 2, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd_module, "TILES", tiles)
        patch.setattr(winograd_module, "CHUNK", chunk)
        got = winograd(x, transform_weight(weight, m), bias, m)
    # F(4 x 4) spreads the terms by 10.8 (test_fast.py, `winograd_amplification`)
    assert_convolution(got, x, weight, bias, 1, 1, growth=2.0 if m == 2 else 11.0)


def test_two_calls_at_once_share_the_threads_that_were_allowed(monkeypatch):
    """Whoever runs two images at once still gets `count()` threads in all, not twice as many."""
    monkeypatch.setattr(threads, "count", lambda: 3)
    threads._forget_workers()
    before = set(threading.enumerate())
    inside = threading.Event()
    leave = threading.Event()

    def first_block(i):
        inside.set()
        assert leave.wait(10.0)

    first = threading.Thread(target=threads.parallel, args=(first_block, 3))
    first.start()
    try:
        assert inside.wait(10.0)
        done = []
        threads.parallel(done.append, 12)  # finishes although all others are busy
        assert sorted(done) == list(range(12))
        started = set(threading.enumerate()) - before - {first}
        assert len(started) <= 2
    finally:
        leave.set()
        first.join(10.0)
        threads._forget_workers()


def test_a_compiled_network_sees_the_parameters_that_there_are():
    torch = pytest.importorskip("torch")
    from ldmref.backends.fast.torch import _ParamsModule

    flat = {"conv.weight": torch.ones(2), "resnets.0.bias": torch.zeros(3), "scale": torch.ones(1)}
    params = unflatten(flat)
    view = _ParamsModule(params)
    for name in ("conv", "resnets", "scale", "conv_shortcut", "bias"):
        assert (name in view) == (name in params), name
        assert (view.get(name) is None) == (params.get(name) is None), name
    assert view["scale"] is flat["scale"] and view.conv.weight is flat["conv.weight"]
    assert [x.bias is flat["resnets.0.bias"] for x in view.resnets.items_in_order()] == [True]


@pytest.mark.parametrize(("speed", "k"), [("fast", 3), ("fastest", 3), ("fast", 1)])
def test_the_memory_of_a_weight_is_what_is_kept_of_it(speed, k):
    """What `weight_bytes` expects is what a convolution of that many pixels then holds."""
    ops = FastNumpyBackend(speed=speed)
    weight = ops.weight(np.ones((64, 64, k, k), np.float32))
    expected = ops.weight_bytes(weight.shape, 32 * 32)
    ops.conv2d(np.ones((1, 64, 32, 32), np.float32), weight, None, 1, k // 2)
    derived = sum(array.nbytes for _, array in ops._cache.values())
    assert expected == (derived if k == 3 else weight.nbytes)


def test_a_backend_that_says_nothing_of_types_takes_all_four():
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        assert Backend(dtype=dtype).dtype == dtype
    with pytest.raises(UsageError) as caught:
        Backend(dtype="int8")
    assert caught.value.code == "E-DTYPE"
