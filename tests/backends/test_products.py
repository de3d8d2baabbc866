"""Products on any number of threads: their bits, and how they are divided."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ldmref
from ldmref.backends.fast import convolution, matmul, threads
from ldmref.backends.fast.numpy import FastNumpyBackend
from ldmref.backends.numpy import NumpyBackend
from ldmref.testing.conformance import EPS

OPS = FastNumpyBackend()
REFERENCE = NumpyBackend(dtype="float64")


def zeros(*shape):
    return np.zeros(shape, np.float32)


def image(n, c, h, w):
    """Return zeros with channels together in memory, as the backend's operations leave them."""
    return zeros(n, h, w, c).transpose(0, 3, 1, 2)


PRODUCTS = {  # few and many rows, which are divided differently; the last part is a short one
    "linear, by rows": (matmul.linear, (650, 320), (320, 320)),
    "linear, by columns": (matmul.linear, (77, 768), (770, 768)),
    "linear, by rows of the weight": (matmul.linear, (77, 1024), (1030, 1024)),
    "geglu, by rows": (matmul.geglu, (530, 320), (1100, 320)),
    "geglu of few rows, by rows": (matmul.geglu, (77, 320), (1000, 320)),
    "geglu, by rows of the weight": (matmul.geglu, (77, 1024), (1100, 1024)),
    "convolution": (
        lambda x, weight, bias: convolution.im2col(x, weight, bias, 1, 1),
        (1, 8, 8, 64),
        (700, 64, 3, 3),
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_keep_their_bits_on_any_number_of_threads(monkeypatch, name):
    """Parts are multiples of the rows that a kernel of BLAS takes, or set by the shape."""
    call, *shapes = PRODUCTS[name]
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape, np.float32) for shape in shapes)
    bias = rng.standard_normal(len(weight), np.float32)
    monkeypatch.setattr(matmul, "WORK", 1)
    monkeypatch.setattr(convolution, "LIGHT_WEIGHT", 0)  # by channels
    results = []
    with threads.one_thread():
        for count in (1, 2, 3, 5, 16, 64):
            monkeypatch.setattr(matmul, "count", lambda count=count: count)
            results.append(call(x, weight, bias))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    if call is not PRODUCTS["convolution"][0]:
        want = getattr(REFERENCE, call.__name__)(*(y.astype(float) for y in (x, weight, bias)))
        bound = EPS["float32"] * (4 + math.sqrt(x.shape[-1])) * np.abs(want).max()
        np.testing.assert_allclose(results[0], want, atol=bound, rtol=0)


@pytest.mark.parametrize("half", [6, 512, 550])
def test_geglu_in_any_number_of_blocks(monkeypatch, half):
    """By rows, in blocks of columns and of rows that do not divide the array."""
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape, np.float32) for shape in ((61, 8), (2 * half, 8)))
    bias = rng.standard_normal(2 * half, np.float32)
    want = REFERENCE.geglu(*(y.astype(float) for y in (x, weight, bias)))
    bound = EPS["float32"] * (4 + math.sqrt(8)) * np.abs(want).max()
    monkeypatch.setattr(matmul, "FEW_ROWS", 0)
    for columns in (1, 5, 64, 200, 549, 550, 2560):
        for block in (1, 100, 2**20):
            monkeypatch.setattr(matmul, "COLUMNS", columns)
            monkeypatch.setattr(matmul, "BLOCK", block)
            got = matmul.geglu(x, weight, bias)
            np.testing.assert_allclose(got, want, rtol=0, atol=bound)


@pytest.mark.parametrize("kernels", ["", "Haswell", "Nehalem"])
def test_rows_of_a_product_may_be_cut_at_multiples_of_the_tile(kernels):
    """In both types and all memory orders, with each kernel that this processor can run."""
    code = """
import itertools
import numpy as np
from ldmref.backends.fast import matmul
from ldmref.backends.fast.matmul import ROWS, TILE
from ldmref.backends.fast.threads import blas_kernels, single_threaded_blas

matmul.WORK = 1  # only what one call needs

def cut(a, b, step):
    matmul.count = lambda: len(a)  # as many parts as allowed
    if step == ROWS:
        matmul.count = lambda: 1
    parts = matmul.choose_parts(len(a), a.size * b.shape[1], step)
    return np.concatenate([a[part] @ b for part in parts])

rng = np.random.default_rng(0)
with single_threaded_blas():
    for m, k, n in ((130, 320, 330), (30, 77, 50), (77, 768, 100), (1300, 400, 100)):
        for dtype, orders in itertools.product("fd", itertools.product("CF", repeat=2)):
            a, b = (np.asarray(rng.standard_normal(s).astype(dtype), order=order)
                    for s, order in zip(((m, k), (k, n)), orders))
            whole = cut(a, b, ROWS)
            for tiles in (1, 2, 5):
                assert np.array_equal(cut(a, b, tiles * TILE), whole), (m, k, n, dtype, tiles)
print(blas_kernels())
"""
    environ = {
        "OPENBLAS_CORETYPE": kernels,
        "PYTHONPATH": str(Path(ldmref.__file__).parents[1]),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    if done.returncode == -signal.SIGILL:
        pytest.skip(f"this processor cannot run OpenBLAS' kernels for {kernels}")
    assert done.returncode == 0, done.stderr


@given(
    total=st.integers(0, 5000),
    work=st.integers(1, 2**40),
    maximum=st.integers(1, 100),
    count=st.integers(1, 200),
)
def test_parts_of_a_product(total, work, maximum, count):
    maximum *= matmul.TILE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matmul, "count", lambda: count)
        parts = matmul.choose_parts(total, total * work, maximum)
    rows = [part.stop - part.start for part in parts]
    assert [row for part in parts for row in range(part.start, part.stop)] == [*range(total)]
    assert all(part.start % matmul.TILE == 0 for part in parts)
    assert len(parts) <= 1 or min(rows) * work >= matmul.CALL
    least = -(-matmul.CALL // work)
    assert all(length <= max(maximum, least + matmul.TILE) + least for length in rows)
    assert len(parts) <= max(count, -(-total // maximum)) + count
    enough = [length * work >= min(matmul.WORK, total * work) / 2 for length in rows[:-1]]
    assert all(enough) or len(parts) <= -(-total // maximum), "a part is worth handing over"


@given(total=st.integers(0, 5000), rows=st.integers(1, 511), width=st.integers(1, 5000))
def test_columns_of_a_product_are_cut_by_its_shape_alone(total, rows, width):
    """Haswell's kernels round the last columns of each call differently."""
    work = rows * total * width
    cuts = []
    for count in (1, 2, 64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(matmul, "count", lambda count=count: count)
            cuts.append(matmul.choose_columns(total, work))
    assert cuts[0] == cuts[1] == cuts[2]
    columns = [part.stop - part.start for part in cuts[0]]
    assert [i for part in cuts[0] for i in range(part.start, part.stop)] == [*range(total)]
    assert all(length % matmul.LANES == 0 for length in columns[:-1])
    whole = [length * rows * width >= min(matmul.WORK, work) for length in columns[:-1]]
    assert all(whole), "a part is worth handing over"


@pytest.mark.parametrize("shape", [(1024, 1024), (1023, 1024), (1100, 1000, 1, 1), (64, 32, 1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weights_are_copied_into_the_order_in_which_products_read_them(shape, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    weight = OPS.weight(x)
    np.testing.assert_array_equal(weight, x)
    matrix = weight.reshape(shape[:2])
    by_rows = math.prod(shape) >= matmul.LARGE
    assert matrix.flags.c_contiguous == by_rows and matrix.flags.f_contiguous != by_rows
    assert weight.shape == x.shape and not np.shares_memory(weight, x)


SD_STEP = {  # products of Stable Diffusion 1.5 at 32 x 32, batch 2
    "to_q": lambda: OPS.linear(zeros(2, 1024, 320), zeros(320, 320)),
    "to_q of few tokens": lambda: OPS.linear(zeros(2, 64, 1280), zeros(1280, 1280)),
    "to_k of the prompt": lambda: OPS.linear(zeros(2, 77, 768), zeros(1280, 768)),
    "geglu": lambda: OPS.geglu(zeros(2, 1024, 320), zeros(2560, 320), zeros(2560)),
    "geglu of few tokens": lambda: OPS.geglu(zeros(2, 64, 1280), zeros(10240, 1280), zeros(10240)),
    "geglu of the middle": lambda: OPS.geglu(zeros(2, 16, 1280), zeros(10240, 1280), zeros(10240)),
    "convolution of few pixels": lambda: OPS.conv2d(
        image(2, 640, 8, 8), OPS.weight(zeros(1280, 640, 3, 3)), None, 1, 1
    ),
    "shortcut": lambda: OPS.conv2d(image(2, 2560, 8, 8), OPS.weight(zeros(1280, 2560, 1, 1))),
    "CLIP": lambda: OPS.linear(zeros(1, 77, 768), zeros(3072, 768)),
}


@pytest.mark.parametrize("cores", [2, 4, 16])
@pytest.mark.parametrize("name", SD_STEP)
def test_no_part_of_a_large_product_is_small(monkeypatch, name, cores):
    """Each packs its operands anew: parts of 2^23 multiplications made SD's step twice as slow.

    The last part is what is left over.
    """
    sizes = []
    matmul_of_numpy = np.matmul

    def count_multiplications(a, b, out=None):
        sizes.append(a.shape[-2] * a.shape[-1] * b.shape[-1])
        return matmul_of_numpy(a, b, out=out)

    monkeypatch.setattr(matmul, "count", lambda: cores)
    monkeypatch.setattr(np, "matmul", count_multiplications)
    with threads.one_thread():
        SD_STEP[name]()
    total = sum(sizes)
    products = 2 if "geglu" in name else 1
    parts = sorted(sizes, reverse=True)[:-products]
    assert total and len(sizes) <= max(2 * products * max(cores, 3), total // matmul.WORK)
    assert min(parts, default=2**22) >= 2**22


@pytest.mark.parametrize("tokens", [1, 2, 7, 9, 10, 77, 80, 154, 333])
@pytest.mark.parametrize("operation", ["linear", "geglu"])
def test_few_tokens_fill_the_registers_of_the_kernels(monkeypatch, operation, tokens):
    """The last 2 to 7 tokens of 8 take BLAS longer than 8 do; what fills them is cut off again."""
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape, np.float32) for shape in ((tokens, 768), (1536, 768)))
    bias = rng.standard_normal(len(weight), np.float32)
    lengths = []
    matmul_of_numpy = np.matmul

    def note_length(a, b, out=None):
        lengths.append(b.shape[-1])
        return matmul_of_numpy(a, b, out=out)

    with monkeypatch.context() as patch, np.errstate(all="raise"):
        patch.setattr(np, "matmul", note_length)
        result = getattr(OPS, operation)(x, weight, bias)
    want = getattr(REFERENCE, operation)(*(y.astype(float) for y in (x, weight, bias)))
    bound = EPS["float32"] * (4 + math.sqrt(x.shape[-1])) * np.abs(want).max()
    np.testing.assert_allclose(result, want, atol=bound, rtol=0)
    assert result.flags.c_contiguous and len(result) == tokens
    filled = tokens > 8 and tokens % 8 != 1
    assert set(lengths) == {tokens + (-tokens % 8 if filled else 0)}
