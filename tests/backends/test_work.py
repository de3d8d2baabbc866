"""The fast NumPy backend divides its work: algorithms by shape, blocks, memory."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from ldmref.backends.fast import attention, convolution, matmul, memory, norms, pointwise, threads
from ldmref.backends.fast import numpy as fast_numpy
from ldmref.backends.fast import winograd as winograd_module
from ldmref.backends.fast.convolution import winograd_pays
from ldmref.backends.fast.numpy import FastNumpyBackend
from ldmref.models.params import Params
from ldmref.models.transformer_layers import gelu_tanh, rms_norm

MODULES = (attention, convolution, matmul, norms, pointwise, fast_numpy, memory, threads)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def image(n, c, h, w):
    """Return zeros with channels together in memory, as the backend's operations leave them."""
    return zeros(n, h, w, c).transpose(0, 3, 1, 2)


@pytest.fixture
def recorded(monkeypatch):
    """On four threads: into how many blocks each call is divided, and the largest scratch array."""
    calls = []
    largest = [0]
    allocate = memory.scratch

    def parallel(function, blocks):
        calls.append(blocks)
        for i in range(blocks):
            function(i)

    def scratch(name, shape, dtype=np.float32):
        largest[0] = max(largest[0], math.prod(shape))
        return allocate(name, shape, dtype)

    monkeypatch.setattr(threads, "count", lambda: 4)
    for module in MODULES:
        for name, replacement in (
            ("parallel", parallel),
            ("scratch", scratch),
            ("count", threads.count),
        ):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, replacement)
    return calls, largest


OPS = FastNumpyBackend()
KERNEL = OPS.weight(zeros(64, 64, 3, 3))
NORM = Params(weight=zeros(128))
LARGE = {  # much work: a call of it, and the most elements that a block may have
    "tokens": (lambda: OPS.linear(zeros(4096, 320), zeros(320, 320), zeros(320)), 0),
    "few tokens, wide": (lambda: OPS.linear(zeros(16, 1024), zeros(4096, 1024)), 2**15),
    "geglu": (lambda: OPS.geglu(zeros(1024, 64), zeros(512, 64), zeros(512)), 2**18),
    "geglu of few tokens": (lambda: OPS.geglu(zeros(16, 512), zeros(5200, 512), None), 2**16),
    "layer norm": (lambda: OPS.layer_norm(zeros(4096, 320), zeros(320), zeros(320), 1e-5), 0),
    "group norm": (
        lambda: OPS.group_norm(image(1, 320, 64, 64), *zeros(2, 320), 32, 1e-5),
        2**18 + 320,
    ),
    "group norm of four": (
        lambda: OPS.group_norm(image(4, 32, 32, 32), *zeros(2, 32), 8, 1e-5),
        2**18,
    ),
    "attention": (lambda: OPS.attention(*zeros(3, 1, 8, 1024, 40)), 2**17),
    "attention with a mask": (
        lambda: OPS.attention(*zeros(3, 1, 8, 1024, 40), bias=zeros(1, 1, 1, 1024)),
        2**17,
    ),
    "attention with positions": (
        lambda: OPS.attention(*zeros(3, 1, 8, 1024, 40), bias=zeros(1, 8, 1024, 1024)),
        2**17,
    ),
    "attention of small heads": (lambda: OPS.attention(*zeros(3, 2, 64, 64, 8)), 2**17),
    "many keys": (lambda: OPS.attention(zeros(1, 8, 256, 8), *zeros(2, 1, 8, 2000, 8)), 2**17),
    "3 x 3": (lambda: OPS.conv2d(image(1, 64, 64, 64), KERNEL, None, 1, 1), 4 * 2**20),
    "3 x 3 of four": (lambda: OPS.conv2d(image(4, 64, 16, 16), KERNEL, None, 1, 1), 4 * 2**20),
    "stride 2 of four": (lambda: OPS.conv2d(image(4, 64, 64, 64), KERNEL, None, 2, 1), 2**20),
    "few pixels": (
        lambda: OPS.conv2d(image(1, 64, 8, 8), OPS.weight(zeros(4096, 64, 3, 3)), None, 2, 1),
        0,
    ),
    "silu": (lambda: OPS.silu(zeros(2**20)), 2**18),
    "gelu": (lambda: OPS.gelu(zeros(2**20)), 2**17),
    "quick gelu": (lambda: OPS.quick_gelu(zeros(2**20)), 2**17),
    "tanh form of gelu": (lambda: gelu_tanh(OPS, zeros(1, 1024, 1024)), 0),
    "rms norm": (lambda: rms_norm(OPS, NORM, zeros(1, 8, 1024, 128), 1e-6), 0),
    "upsampling": (lambda: OPS.upsample2x(image(1, 8, 16, 16)), 0),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_operations_use_every_thread_and_bounded_memory(recorded, name):
    calls, largest = recorded
    call, most = LARGE[name]
    call()
    assert max(calls) >= 4 and largest[0] <= most


SMALL = {
    "tokens": lambda: OPS.linear(zeros(64, 320), zeros(64, 320)),
    "one token": lambda: OPS.linear(zeros(1, 320), zeros(320, 320)),
    "layer norm": lambda: OPS.layer_norm(zeros(77, 768), zeros(768), zeros(768), 1e-5),
    "group norm": lambda: OPS.group_norm(image(1, 64, 8, 8), *zeros(2, 64), 8, 1e-5),
    "attention": lambda: OPS.attention(*zeros(3, 1, 8, 64, 40)),
    "attention of 8 x 32 x 1024": lambda: OPS.attention(
        zeros(1, 8, 32, 8), *zeros(2, 1, 8, 1024, 8)
    ),
    "silu": lambda: OPS.silu(zeros(64, 64)),
    "gelu of a block": lambda: OPS.gelu(zeros(2**17)),
    "tanh form of gelu": lambda: gelu_tanh(OPS, zeros(1, 77, 1024)),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_operations_wake_no_thread(recorded, name):
    calls, _ = recorded
    SMALL[name]()
    assert set(calls) <= {1}


@pytest.mark.parametrize("m,n,size", [(2, 1, 16), (2, 4, 8), (2, 1, 24), (4, 1, 32), (4, 5, 16)])
def test_transformed_tiles_keep_to_their_workspace(recorded, monkeypatch, m, n, size):
    """Bands of rows, or several images, of as many tiles as it holds."""
    monkeypatch.setattr(winograd_module, "TILES", 60)
    monkeypatch.setattr(winograd_module, "WORKSPACE", workspace := 17 * (m + 2) ** 2 * 64)
    u = winograd_module.transform_weight(zeros(32, 64, 3, 3), m)
    calls, largest = recorded
    calls.clear()
    winograd_module.winograd(zeros(n, size, size, 64), u, None, m)
    assert 0.5 * workspace < largest[0] <= workspace and len(calls) > 4


def test_functions_in_parts_need_no_large_arrays_in_between():
    """New memory costs more than the arithmetic: the result, and a few parts of it."""
    x = zeros(1, 1024, 4096)
    with threads.one_thread():
        gelu_tanh(OPS, x)
        tracemalloc.start()
        gelu_tanh(OPS, x)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < x.nbytes + 5 * pointwise.BLOCK * x.itemsize


EMPTY = {
    "linear": lambda x: OPS.linear(x, zeros(6, 8), zeros(6)),
    "geglu": lambda x: OPS.geglu(x, zeros(6, 8), zeros(6)),
    "layer_norm": lambda x: OPS.layer_norm(x, zeros(8), zeros(8), 1e-5),
    "silu": OPS.silu,
}


@pytest.mark.parametrize("name", EMPTY)
def test_no_tokens_are_no_work(name):
    widths = {"linear": 6, "geglu": 3}
    assert EMPTY[name](zeros(2, 0, 8)).shape == (2, 0, widths.get(name, 8))


def test_heads_share_a_block_if_they_are_small(recorded):
    """As many as have 2^17 scores, but half of an image's at most; all if there is little work."""
    calls, _ = recorded
    for n, heads, length, blocks in (
        (1, 64, 64, 1),
        (1, 65, 64, 3),
        (1, 128, 64, 4),
        (1, 16, 256, 8),
        (1, 3, 1024, 3 * 4),
        (2, 8, 128, 2),
        (4, 8, 128, 4 * 2),
    ):
        calls.clear()
        OPS.attention(*zeros(3, n, heads, length, 4))
        assert calls[-1] == blocks, (n, heads)


# -- which algorithm ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "m", "pays"),
    [
        ((1, 16, 16, 1280, 1280), 2, True),
        ((1, 15, 15, 1280, 1280), 2, True),
        ((1, 14, 16, 1280, 1280), 2, False),
        ((1, 16, 14, 1280, 1280), 2, False),
        ((2, 8, 16, 1280, 1280), 2, True),
        ((2, 8, 14, 1280, 1280), 2, False),
        ((1, 14, 16, 364, 320), 2, True),
        ((1, 14, 16, 365, 320), 2, False),
        ((1, 4, 4, 16, 16), 2, True),
        ((1, 99, 99, 15, 64), 2, False),
        ((1, 99, 99, 64, 15), 2, False),
        ((1, 99, 99, 63, 64), 4, False),
        ((1, 99, 99, 64, 63), 4, False),
        ((1, 32, 32, 64, 64), 4, True),
        ((1, 29, 29, 64, 64), 4, True),
        ((1, 28, 32, 64, 64), 4, False),
        ((1, 32, 28, 64, 64), 4, False),
    ],
)
def test_winograd_takes_many_tiles_or_light_weights(shape, m, pays):
    assert winograd_pays(*shape, m) == pays
    if m == 2:
        assert winograd_pays(*shape) == pays


# (n, c, h, w), (outputs, kernel), stride, padding, algorithm
ALGORITHMS = [
    ((1, 64, 16, 16), (64, 3), 1, 1, "winograd"),
    ((1, 64, 14, 16), (64, 3), 1, 1, "winograd"),
    ((1, 384, 14, 16), (384, 3), 1, 1, "_by_channels"),
    ((1, 384, 16, 16), (384, 3), 1, 0, "_by_channels"),  # 14 x 14
    ((1, 64, 16, 16), (64, 3), 1, 0, "_by_rows"),
    ((1, 384, 19, 19), (384, 3), 1, 0, "_by_rows"),  # 17 x 17
    ((1, 384, 32, 32), (384, 3), 2, 1, "_by_channels"),  # 16 x 16
    ((1, 384, 32, 34), (384, 3), 2, 1, "_by_rows"),
    ((2, 384, 32, 16), (384, 3), 2, 1, "_by_channels"),
    ((2, 384, 32, 18), (384, 3), 2, 1, "_by_rows"),
    ((1, 64, 32, 32), (64, 3), 2, 1, "_by_rows"),
    ((1, 64, 16, 16), (7, 3), 1, 1, "_by_shifts"),  # 63 columns of products for 64 channels
    ((1, 64, 16, 16), (8, 3), 1, 1, "_by_rows"),
    ((1, 64, 32, 32), (7, 3), 2, 1, "_by_rows"),
    ((1, 8, 16, 16), (4, 1), 1, 0, "linear"),
    ((1, 8, 16, 16), (8, 1), 1, 1, "_by_rows"),  # 18 x 18
    ((1, 8, 16, 16), (4, 1), 2, 0, "_by_rows"),
]


@pytest.mark.parametrize(("shape", "kernel", "stride", "padding", "algorithm"), ALGORITHMS)
def test_the_algorithm_by_shape(monkeypatch, shape, kernel, stride, padding, algorithm):
    called = []

    def note(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: called.append(name) or function(*a, **k))

    for name in ("_by_channels", "_by_rows", "_by_shifts"):
        note(convolution, name)
    note(matmul, "linear")
    note(fast_numpy, "winograd")
    (out, k) = kernel
    x = image(*shape)
    weight = OPS.weight(zeros(out, shape[1], k, k))
    y = OPS.conv2d(x, weight, None, stride, padding)
    assert called == [algorithm]
    assert y.shape == (shape[0], out, *((s + 2 * padding - k) // stride + 1 for s in shape[2:]))


def test_an_embedding_copies_its_rows_alone():
    """A table is transposed in memory (`weight`); `np.take` would copy all of it."""
    table = OPS.weight(np.random.default_rng(0).standard_normal((4000, 64)))
    ids = np.array([[3, 3999, 0]])
    tracemalloc.start()
    rows = OPS.embedding(table, ids)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(rows, table[ids])
    assert rows.flags.c_contiguous and peak < table.nbytes / 10


# -- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_kernels_stay_where_they_are(dtype):
    host = np.ones((4, 3, 3, 3), dtype)
    weight = OPS.weight(host)
    assert weight is not host and np.shares_memory(weight, host) and weight.dtype == dtype


@pytest.mark.parametrize(
    "shape,dtype",
    [
        ((4, 3, 3, 3), np.float64),
        ((4, 3, 1, 1), np.float16),
        ((4, 3), np.float16),
        ((4,), np.float16),
    ],
)
def test_other_weights_are_float32(shape, dtype):
    host = np.arange(math.prod(shape), dtype=dtype).reshape(shape)
    weight = OPS.weight(host)
    assert weight.dtype == np.float32 and (weight == host).all()
    assert weight.T.flags.c_contiguous or len(shape) != 2


def test_a_weight_is_prepared_once_for_each_algorithm():
    """Cast from the file's type, as the matrix of its columns, and transformed; then read again."""
    ops = FastNumpyBackend()
    weight = ops.weight(np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float16))
    rng = np.random.default_rng(1)
    for size, stride in ((32, 1), (8, 2), (40, 2)):
        x = ops.asarray(rng.standard_normal((1, 64, size, size)))
        first = ops.conv2d(x, weight, None, stride, 1)
        kept = dict(ops._cache)
        np.testing.assert_array_equal(ops.conv2d(x, weight, None, stride, 1), first)
        assert dict(ops._cache) == kept
    kinds = sorted(kind for _, kind in ops._cache)
    assert kinds == ["cast", "matrix", "winograd 2"]
    fastest = FastNumpyBackend(speed="fastest")
    for size in (32, 16):  # 64 tiles of 4 x 4, then too few of these but 64 of 2 x 2
        fastest.conv2d(ops.asarray(rng.standard_normal((1, 64, size, size))), weight, None, 1, 1)
    assert sorted(kind for _, kind in fastest._cache) == ["winograd 2", "winograd 4"]


def test_images_keep_their_channels_together():
    """The next operation then copies nothing."""
    x = OPS.asarray(np.random.default_rng(0).standard_normal((2, 8, 6, 5)))
    vectors = OPS.asarray(np.ones((2, 8)))
    for y in (
        OPS.conv2d(x, OPS.weight(np.ones((4, 8, 3, 3))), None, 1, 1),
        OPS.conv2d(x, OPS.weight(np.ones((4, 8, 1, 1)))),
        OPS.group_norm(x, *vectors, 2, 1e-5),
        OPS.group_norm_silu(x, *vectors, 2, 1e-5),
        OPS.upsample2x(x),
        OPS.pad_bottom_right(x),
    ):
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous
        assert OPS.silu(y).strides == OPS.gelu(y).strides == y.strides
