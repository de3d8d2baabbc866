"""Full speed: the reference's numbers, the cores shared out once, nothing kept too long."""

from __future__ import annotations

import gc
import importlib.util
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.backends.bounds import error_bound
from ldmref.backends.fast import attention, matmul, norms, pointwise, threads
from ldmref.backends.fast.numpy import FastNumpyBackend
from ldmref.backends.fast.winograd import _MATRICES, transform_weight, winograd
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import UsageError
from ldmref.testing.conformance import EPS

REFERENCE = NumpyBackend(dtype="float64")


# -- which backend --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "speed", "found"),
    [
        ("numpy", None, None, "fast"),
        ("numpy", "float32", "exact", "exact"),
        ("numpy", "float64", None, "exact"),
        ("numpy", "float16", None, "exact"),
        ("numpy", None, "fastest", "fastest"),
        ("torch", None, None, "fast"),
        ("torch", "bfloat16", "fastest", "fastest"),
        ("torch", "float64", None, "exact"),
        ("torch", None, "exact", "exact"),
    ],
)
def test_the_speed_is_the_backends_own_or_as_asked(name, dtype, speed, found):
    if name == "torch":
        pytest.importorskip("torch")
    ops = get_backend(name, dtype=dtype, speed=speed)
    assert ops.speed == found == ops.describe()["speed"]
    assert get_backend(ops, speed=found) is ops
    with pytest.raises(UsageError, match="already has"):
        get_backend(ops, speed="exact" if found != "exact" else "fast")


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize(("dtype", "speed"), [("float64", "fast"), (None, "warp")])
def test_a_speed_that_does_not_exist(name, dtype, speed):
    if name == "torch":
        pytest.importorskip("torch")
    with pytest.raises(UsageError, match=f"speed '{speed}' does not exist") as caught:
        get_backend(name, dtype=dtype, speed=speed)
    assert caught.value.code == "E-SPEED"


# -- Winograd -------------------------------------------------------------------------------------


@given(
    n=st.integers(1, 5),
    h=st.integers(1, 40),
    w=st.integers(1, 40),
    c=st.integers(1, 9),
    out=st.integers(1, 9),
    m=st.sampled_from([2, 4]),
    biased=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_winograd_is_the_convolution(n, h, w, c, out, m, biased, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, h, w, c), np.float32)
    weight = rng.standard_normal((out, c, 3, 3), np.float32)
    bias = rng.standard_normal(out, np.float32) if biased else None
    wide = [None if y is None else y.astype(np.float64) for y in (x.transpose(0, 3, 1, 2), weight)]
    want = REFERENCE.conv2d(*wide, None if bias is None else bias.astype(float), 1, 1)
    got = winograd(x, transform_weight(weight, m), bias, m)
    terms = 9 * c
    scale = max(math.sqrt(terms), np.abs(want).max())  # of the sums, the first sampled at random
    bound = EPS["float32"] * (4 + math.sqrt(terms)) * winograd_amplification(m)
    assert np.abs(got.transpose(0, 3, 1, 2) - want).max() < bound * scale


def winograd_amplification(m):
    """Return the spread of the terms in Winograd's sums over that in the direct sum.

    For independent d and g of unit variance, the variances of the terms of an output of
    A^T [(G g G^T) * (B^T d B)] A add up to the square of `sum_i A_i^2 G_i^2 B_i^2`, where G_i and
    B_i are rows; those of the direct sum to 9. Rounding is relative to the terms.
    """
    b, g, a = (np.square(matrix) for matrix in _MATRICES[m])
    return np.mean(a @ (g.sum(1) * b.sum(1))) / 3.0


def test_transformed_weights_live_as_long_as_the_weight():
    ops = FastNumpyBackend()
    weight = ops.weight(np.ones((64, 64, 3, 3), np.float32))
    x = np.ones((1, 64, 16, 16), np.float32)
    first = ops.conv2d(x, weight, None, 1, 1)
    assert len(ops._cache) == 1
    np.testing.assert_array_equal(ops.conv2d(x, weight, None, 1, 1), first)
    assert len(ops._cache) == 1
    del weight
    gc.collect()
    assert not ops._cache


# -- activations ----------------------------------------------------------------------------------


def test_the_polynomial_comes_from_its_script():
    path = Path(__file__).parents[2] / "scripts" / "fit_gelu.py"
    spec = importlib.util.spec_from_file_location("fit_gelu", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    coefficients, worst = module.fit()
    np.testing.assert_allclose(pointwise.ERF, coefficients, rtol=8 * EPS["float32"])
    assert worst < 1e-7


def test_gelu_everywhere():
    ends = np.geomspace(6.0, 3e38, 1001)
    x = np.concatenate([np.linspace(-12, 12, 200001), ends, -ends]).astype(np.float32)
    want = REFERENCE.gelu(x.astype(np.float64))
    error = np.abs(FastNumpyBackend().gelu(x) - want) / np.maximum(1.0, np.abs(want))
    # half of the polynomial's error, and tanh, 1 + tanh and the product round by eps / 2 each
    assert error.max() < 1e-7 / 2 + 3 * EPS["float32"] / 2


# -- blocks ---------------------------------------------------------------------------------------


def make_bias(kind, draw, heads, length, keys, causal):
    """Return a bias of attention; every query sees a key."""
    if kind == "one key":  # the last, after blocks of hidden ones
        seen = 0 if causal else keys - 1
        return np.where(np.arange(keys) == seen, 0.0, -np.inf).reshape(1, 1, 1, keys)
    if kind in ("keys", "queries"):
        shape = (2, 1, 1, keys) if kind == "keys" else (1, heads, length, keys)
        hidden = draw(shape, np.float32) > 0
        hidden[..., 0] = False
        return np.where(hidden, np.float32(-1e9), np.float32(0.0))
    return draw((2, heads, length, keys), np.float32) * np.float32(kind)


@given(
    heads=st.integers(1, 3),
    length=st.integers(1, 40),
    keys=st.integers(1, 40),
    size=st.sampled_from([1e-3, 1.0, 100.0]),  # the last needs its maxima subtracted
    causal=st.booleans(),
    bias=st.sampled_from([None, 1.0, 80.0, "keys", "queries", "one key"]),
    at_once=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_attention_in_blocks_of_queries_and_keys(
    heads, length, keys, size, causal, bias, at_once, seed
):
    draw = np.random.default_rng(seed).standard_normal
    q = draw((2, heads, length, 5), np.float32) * np.float32(size)
    k = draw((2, heads, keys, 5), np.float32)
    v = draw((2, heads, keys, 3), np.float32)
    k[..., keys // 2 :, :] *= 3.0  # later blocks hold the higher scores
    options = {"causal": causal}
    if bias is not None:
        options["bias"] = make_bias(bias, draw, heads, length, keys, causal)
    want = REFERENCE.attention(*(y.astype(np.float64) for y in (q, k, v)), **options)
    with pytest.MonkeyPatch.context() as patch:
        sizes = {"QUERIES": 16, "KEYS": 7, "SCORES": 200, "SMALL": 0}
        for name, value in (sizes | {"AT_ONCE": 2**17 if at_once else 0}).items():
            patch.setattr(attention, name, value)
        got = attention.attention(q, k, v, **options)
    # exp turns the absolute error of a score, eps |score|, into a relative one
    wide = [y.astype(np.float64) for y in (q, k, np.abs(v))]
    largest = np.abs(wide[0] @ wide[1].swapaxes(2, 3)).max() / math.sqrt(5)
    if bias is not None:  # the sum rounds, of keys that are not hidden
        largest += np.abs(options["bias"][options["bias"] > -1e8]).max()
    scale = (1.0 + largest) * REFERENCE.attention(*wide, **options).max()
    bound = EPS["float32"] * (4 + math.sqrt(5 + keys)) * scale
    np.testing.assert_allclose(got, want, atol=bound, rtol=0)


@pytest.mark.parametrize("size", [1e-3, 100.0])
@pytest.mark.parametrize("kind", ["one key", "keys", "far below"])
def test_blocks_of_hidden_keys_come_first(monkeypatch, kind, size):
    """Neither 0 / 0 nor -inf - -inf, with and without the running maximum."""
    for name, value in {"QUERIES": 16, "KEYS": 7, "SMALL": 0, "AT_ONCE": 0}.items():
        monkeypatch.setattr(attention, name, value)
    draw = np.random.default_rng(0).standard_normal
    q, k, v = (draw((2, 3, length, 5), np.float32) for length in (20, 30, 30))
    bias = np.full((1, 1, 1, 30), -np.inf if kind == "one key" else -1e9, np.float32)
    bias[..., -1 if kind == "one key" else slice(-9, None)] = 0.0
    if kind == "far below":  # of exp, if no maximum is subtracted
        bias -= 500.0
    with np.errstate(all="raise", under="ignore"):
        got = attention.attention(size * q, k, v, bias=bias)
    want = REFERENCE.attention(*(y.astype(np.float64) for y in (size * q, k, v)), bias=bias)
    bound = error_bound("attention", (size * q, k, v), {"bias": bias}, "float32")
    assert (np.abs(got - want) <= bound).all()


@pytest.mark.parametrize("rows", [1, 5, 64, 131])
def test_products_and_norms_in_blocks(monkeypatch, four, rows):
    for module, name, value in (
        (matmul, "ROWS", 16),
        (matmul, "COLUMNS", 24),
        (matmul, "SMALL", 0),
        (matmul, "LIGHT", 0),
        (matmul, "BLOCK", 100),
        (norms, "BLOCK", 700),
        (norms, "SMALL", 0),
    ):
        monkeypatch.setattr(module, name, value)
    draw = np.random.default_rng(rows).standard_normal
    x = draw((2, rows, 96)) + 3.0
    w = draw((96, 96)) / 10
    b = draw(96)
    image = draw((2, 96, 3, rows)) + 3.0
    norm = draw(96), draw(96)
    ops = FastNumpyBackend()
    for operation, args, terms, condition in (  # the norms' inputs have mean 3, spread 1
        ("linear", (x, w, b), 96, 1),
        ("geglu", (x, w, b), 96, 1),
        ("layer_norm", (x, *norm, 1e-5), 1, 3),
        ("group_norm", (image, *norm, 8, 1e-5), 1, 3),
        ("group_norm_silu", (image, *norm, 8, 1e-5), 1, 3),
    ):
        want = getattr(REFERENCE, operation)(*args)
        short = [y.astype(np.float32) if isinstance(y, np.ndarray) else y for y in args]
        got = getattr(ops, operation)(*short)
        bound = EPS["float32"] * (4 + math.sqrt(terms)) * condition * np.abs(want).max()
        np.testing.assert_allclose(got, want, atol=bound, rtol=0, err_msg=operation)


# -- threads --------------------------------------------------------------------------------------


@pytest.fixture
def four(monkeypatch):
    """Four threads, whatever the machine has."""
    monkeypatch.setattr(threads, "count", lambda: 4)
    threads._forget_workers()
    yield
    threads._forget_workers()


def test_every_block_is_done_once_on_several_threads(four):
    meeting = threading.Barrier(4, timeout=10)
    done = []
    names = set()

    def block(i):
        if i < 4:
            meeting.wait()  # nobody does the first four alone
        names.add(threading.get_ident())
        done.append(i)

    threads.parallel(block, 100)
    assert sorted(done) == list(range(100)) and len(names) == 4


def test_inner_calls_stay_on_the_blocks_thread(four):
    def block(i):
        here = threading.current_thread()
        threads.parallel(lambda j: seen.append(threading.current_thread() is here), 8)

    seen = []
    threads.parallel(block, 8)
    assert seen == [True] * 64


def test_the_first_error_is_raised_and_the_pool_lives_on(four):
    def block(i):
        if i == 7:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threads.parallel(block, 50)
    threads.parallel(lambda i: None, 50)
    assert not getattr(threads._local, "inside", False)


def test_products_have_one_thread_inside_and_their_own_outside():
    code = (
        "from threadpoolctl import threadpool_info\n"
        "from ldmref.backends import get_backend\n"
        "def blas():\n"
        "    found = threadpool_info()\n"
        "    return [x['num_threads'] for x in found if 'numpy' in x['filepath']]\n"
        "ops = get_backend('numpy')\n"
        "print(blas())\n"
        "with ops.inference():\n"
        "    with ops.inference(): print(blas())\n"
        "    print(blas())\n"
        "print(blas())\n"
    )
    environ = {
        "OPENBLAS_NUM_THREADS": "3",
        "PATH": "",
        "PYTHONPATH": str(Path(ldmref.__file__).parents[1]),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    before, *inside, after = done.stdout.split()
    assert inside == ["[1]", "[1]"] and before == after, done.stderr
    if len(os.sched_getaffinity(0)) > 1:  # else BLAS has one thread anyway
        assert before != "[1]"


def test_an_image_does_not_depend_on_the_number_of_threads(four):
    model = ldmref.random_model("tiny", backend="numpy")
    many = modes.txt2img(model, "a cat", seed=3, width=64, height=64, steps=3)
    threads.count = lambda: 1
    one = modes.txt2img(model, "a cat", seed=3, width=64, height=64, steps=3)
    np.testing.assert_array_equal(many.latents, one.latents)


def test_the_same_image_at_every_speed():
    want = modes.txt2img(ldmref.random_model("tiny", dtype="float64"), "a cat", seed=3, width=96)
    for name, speed in (
        ("numpy", "exact"),
        ("numpy", "fast"),
        ("numpy", "fastest"),
        ("torch", "fast"),
    ):
        if name == "torch":
            pytest.importorskip("torch")
        model = ldmref.random_model("tiny", backend=name, speed=speed)
        got = modes.txt2img(model, "a cat", seed=3, width=96)
        assert np.abs(np.asarray(got[0], int) - np.asarray(want[0], int)).max() <= 1
        assert got.params["backend"]["speed"] == speed


def test_a_thread_draws_what_the_main_thread_draws():
    """With several BLAS threads, whose number threadpoolctl 3.7 lets one thread set."""
    code = (
        "import threading, numpy as np, ldmref\n"
        "from ldmref import modes\n"
        "model = ldmref.random_model('tiny', seed=1, backend='numpy')\n"
        "draw = lambda: results.append(modes.txt2img(model, 'a cat', seed=1, steps=2).latents)\n"
        "results = []\n"
        "draw()\n"
        "thread = threading.Thread(target=draw)\n"
        "thread.start()\n"
        "thread.join()\n"
        "assert np.array_equal(*results), np.abs(results[0] - results[1]).max()\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
