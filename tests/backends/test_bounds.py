"""Error bounds of the operations: they hold on random inputs, and are not much too large."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ldmref.backends import get_backend
from ldmref.backends.base import DTYPES
from ldmref.backends.bounds import OPERATIONS, basis, error_bound, precision
from ldmref.backends.bounds.rounding import SEQUENTIAL, inner_product, sum_units
from ldmref.backends.numpy import NumpyBackend
from ldmref.backends.traced import OPERATIONS as BACKEND_OPERATIONS
from ldmref.errors import UsageError
from ldmref.testing.cases import Case
from ldmref.testing.measured import EXTENDED_UNITS, ExtendedBackend, compare, measure_errors
from ldmref.testing.random_cases import KINDS, RandomCases

REFERENCE = NumpyBackend(dtype="float64")
MOVES = ("embedding", "pad_bottom_right", "upsample2x")
NUMPY = [
    ("numpy", "float64", "exact"),
    ("numpy", "float32", "exact"),
    ("numpy", "float32", "fast"),
    ("numpy", "float32", "fastest"),
    ("numpy", "float16", "exact"),
]
TORCH = [
    ("torch", "float64", "exact"),
    ("torch", "float32", "exact"),
    ("torch", "float32", "fast"),
    ("torch", "float16", "fast"),
    ("torch", "bfloat16", "exact"),
    ("torch", "bfloat16", "fast"),
]


def opened(name, dtype, speed):
    if name == "torch":
        pytest.importorskip("torch")
    return get_backend(name, dtype=dtype, speed=speed)


def ids(backend):
    return "-".join(backend)


# -- the bounds hold, and are close ---------------------------------------------------------------


@pytest.mark.parametrize("backend", NUMPY + TORCH, ids=ids)
def test_bounds_hold_on_a_few_hundred_random_inputs(backend):
    rows = list(measure_errors(opened(*backend), cases=200))
    assert [row.operation for row in rows] == list(OPERATIONS)
    assert [row for row in rows if not row.ok] == []


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("backend", NUMPY + TORCH, ids=ids)
def test_bounds_hold_on_ten_thousand_random_inputs(backend, operation):
    (row,) = measure_errors(opened(*backend), [operation], cases=10_000, seed=1)
    assert row.ok, row
    exact = operation in MOVES or (operation, row.dtype) == ("asarray", "float64")
    assert row.ratio == 0.0 if exact else row.ratio >= 0.01


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bounds_are_at_most_100_times_the_largest_error(dtype):
    for row in measure_errors(get_backend("numpy", dtype=dtype, speed="exact"), cases=100):
        assert row.operation in MOVES or row.ratio > 0.01, row


@settings(deadline=None, max_examples=60)
@given(
    operation=st.sampled_from(OPERATIONS),
    backend=st.sampled_from(NUMPY),
    seed=st.integers(0, 2**32 - 1),
)
def test_bounds_hold_for_any_seed(operation, backend, seed):
    (row,) = measure_errors(get_backend(*backend[:1], None, *backend[1:]), [operation], 3, seed)
    assert row.ok, row


@settings(deadline=None, max_examples=100)
@given(st.data(), st.sampled_from(["float32", "float16"]))
def test_bounds_hold_for_numbers_that_hypothesis_chooses(data, dtype):
    """It likes zeros, equal numbers, powers of two and subnormal numbers."""
    width = {"float32": 32, "float16": 16}[dtype]
    numbers = st.floats(-100, 100, width=width)
    rows, inputs, outputs = (data.draw(st.integers(1, 5)) for _ in range(3))

    def array(*shape):
        return data.draw(arrays(dtype, shape, elements=numbers))

    cases = (
        Case("linear", "", (array(rows, inputs), array(outputs, inputs), array(outputs))),
        Case("layer_norm", "", (array(rows, inputs), *(array(inputs),) * 2), {"eps": 1e-5}),
        Case("silu", "", (array(rows, inputs),)),
        Case("gelu", "", (array(rows, inputs),)),
        Case("attention", "", tuple(array(1, 1, n, inputs) for n in (rows, outputs, outputs))),
        Case(
            "attention",
            "biased",
            tuple(array(1, 1, n, inputs) for n in (rows, outputs, outputs)),
            {"scale": 1.0},
            {"bias": array(1, 1, rows, outputs).astype(np.float64)},
        ),
    )
    for case in cases:
        for speed in ("exact", "fast") if dtype == "float32" else ("exact",):
            element = compare(get_backend("numpy", dtype=dtype, speed=speed), case)
            assert element.ratio <= 1.0, (case, speed, element)


# -- wrong operations exceed them -----------------------------------------------------------------


def rounded(x, bits):
    """Round to `bits` bits, as TF32 (11) and bfloat16 (8) do."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 2.0**bits) / 2.0**bits, exponent)


def test_a_product_in_tf32_exceeds_the_bound_of_float32():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 320)).astype("f4").astype(float)
    w = rng.standard_normal((40, 320)).astype("f4").astype(float)
    error = np.abs(rounded(x, 11) @ rounded(w, 11).T - x @ w.T)
    assert np.max(error / error_bound("linear", (x, w), {}, "float32")) > 3.0


def test_a_tanh_gelu_and_a_wrong_eps_exceed_the_bounds_of_float32():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 320)).astype("f4").astype(float)
    tanh = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert np.max(np.abs(tanh - REFERENCE.gelu(x)) / error_bound("gelu", (x,), {}, "float32")) > 100
    ones = np.ones(320)
    y = REFERENCE.layer_norm(x, ones, 0 * ones, 1e-5)
    wrong = REFERENCE.layer_norm(x, ones, 0 * ones, 1e-6)
    bound = error_bound("layer_norm", (x, ones, 0 * ones, 1e-5), {}, "float32")
    assert np.max(np.abs(wrong - y) / bound) > 1.0


def test_a_variance_in_one_pass_exceeds_the_bound_of_float32_but_not_that_of_bfloat16():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((4, 256)) + 128.0).astype("f4")
    ones = np.ones(256)
    mean = x.mean(-1, keepdims=True)
    one_pass = (x * x).mean(-1, keepdims=True) - mean * mean
    y = (x - mean) / np.sqrt(one_pass + np.float32(1e-5))
    args = (x.astype(float), ones, 0 * ones, 1e-5)
    error = np.abs(y - REFERENCE.layer_norm(*args))
    assert np.any(error > error_bound("layer_norm", args, {}, "float32"))
    assert np.all(error <= error_bound("layer_norm", args, {}, "bfloat16"))


# -- interface ------------------------------------------------------------------------------------


def test_every_operation_of_a_backend_has_a_bound():
    assert set(BACKEND_OPERATIONS) <= set(OPERATIONS)
    assert {basis(operation) for operation in OPERATIONS} == {"derived", "calibrated"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", sorted(set(OPERATIONS) - {"asarray"}))
def test_bounds_have_the_shape_of_the_result(operation, dtype):
    rng = np.random.default_rng(3)
    for case in RandomCases(dtype, rng).cases(operation, 5):
        arrays = tuple(np.asarray(x) for x in case.arrays)
        bound = error_bound(operation, arrays, case.options | case.named, dtype)
        ops = {"add": lambda *xs: sum(xs[1:], xs[0]), "mul": np.multiply}
        result = ops.get(operation) or getattr(REFERENCE, operation)
        assert bound.shape == result(*arrays, **case.options, **case.named).shape
        assert bound.dtype == np.float64 and np.all(bound >= 0.0) and np.all(np.isfinite(bound))


def test_bounds_grow_with_the_unit_roundoff():
    x = np.random.default_rng(0).standard_normal((3, 8))
    sizes = [error_bound("silu", (x,), {}, d).max() for d in DTYPES]
    assert sizes == sorted(sizes)


def test_integers_and_missing_biases_are_accepted():
    x = np.arange(6).reshape(2, 3)
    assert np.all(error_bound("linear", (x, x, None), {}, "float32") > 0.0)
    assert error_bound("embedding", (x.astype(float), np.array([[1, 0]])), {}, "float32").sum() == 0
    stored = error_bound("embedding", (), {}, "float32", result=np.ones((2, 5)))
    assert stored.shape == (2, 5)


@pytest.mark.parametrize(
    ("operation", "dtype", "code"),
    [("lineal", "float32", "E-BOUND"), ("linear", "float8", "E-DTYPE")],
)
def test_unknown_names_are_refused(operation, dtype, code):
    with pytest.raises(UsageError) as caught:
        error_bound(operation, (np.ones((1, 1)), np.ones((1, 1))), {}, dtype)
    assert caught.value.code == code and caught.value.hint


def test_a_sum_of_equal_terms_has_the_certain_bound():
    p = precision("float32")
    one = np.array(1.0)
    assert inner_product(p, 10_000, one, one, True) == p.u * 10_000
    assert inner_product(p, 10_000, one, one) < p.u * (SEQUENTIAL + 1) * 100
    assert sum_units(np.ones((1, 500)))[0, 0] == 500
    assert sum_units(np.arange(500.0)[None])[0, 0] < 20


def test_an_operation_that_raises_is_reported():
    class Raising(NumpyBackend):
        def silu(self, x):
            raise RuntimeError("no kernel")

    (row,) = measure_errors(Raising(), ["silu"], cases=5)
    assert not row.ok and row.note == "raised RuntimeError: no kernel"
    assert row.to_dict()["ratio"] is None


def test_all_kinds_of_inputs_occur():
    names = [c.name for c in RandomCases("float32", np.random.default_rng(0)).cases("linear", 200)]
    assert {name.split(",")[0] for name in names} == set(KINDS)


# -- the reference in extended precision ----------------------------------------------------------


def test_the_extended_reference_agrees_with_mpmath():
    mpmath = pytest.importorskip("mpmath")
    if EXTENDED_UNITS == 1.0:
        pytest.skip("long double is float64 here")
    mpmath.mp.prec = 120
    ops = ExtendedBackend(dtype="float64")
    numbers = [-6.5, -3.25, -0.75, 1e-8, 0.375, 2.5, 30.0]
    x = ops.asarray(np.asarray(numbers))
    half = mpmath.mpf(1) / 2
    want = {
        "gelu": [v * half * (1 + mpmath.erf(v / mpmath.sqrt(2))) for v in map(mpmath.mpf, numbers)],
        "silu": [v / (1 + mpmath.exp(-v)) for v in map(mpmath.mpf, numbers)],
    }
    for operation, values in want.items():
        digits = (np.format_float_scientific(v, 25, False) for v in getattr(ops, operation)(x))
        got = map(mpmath.mpf, digits)
        assert all(abs(g - v) < 1e-18 * 8 for g, v in zip(got, values, strict=True)), operation


def test_the_extended_reference_agrees_with_numpy():
    rng = np.random.default_rng(0)
    ops = ExtendedBackend(dtype="float64")
    for operation in ("linear", "conv2d", "group_norm", "layer_norm", "attention", "quick_gelu"):
        for case in RandomCases("float64", rng).cases(operation, 20):
            wide = {name: ops.asarray(x) for name, x in case.named.items()}
            got = getattr(ops, operation)(*map(ops.asarray, case.arrays), **case.options, **wide)
            assert got.dtype == np.longdouble
            named = case.options | case.named
            want = getattr(REFERENCE, operation)(*case.arrays, **named)
            assert np.all(
                np.abs(got - want) <= error_bound(operation, case.arrays, named, "float64") * 1.01
            )


# -- Winograd -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("speed", "m"), [("fast", 2), ("fastest", 4)])
def test_numbers_of_all_sizes_need_the_bound_of_winograd(speed, m):
    """Errors of a large pixel reach outputs of its tile to which its weight gives nothing."""
    rng = np.random.default_rng(0)
    x, w = (
        rng.standard_normal(shape) * 10.0 ** rng.uniform(-4, 4, shape)
        for shape in ((1, 64, 32, 32), (64, 64, 3, 3))
    )
    ops = get_backend("numpy", dtype="float32", speed=speed)
    args = ops.asarray(x), ops.asarray(w)
    with ops.inference():
        y = ops.conv2d(*args, stride=1, padding=1)
    wide = tuple(a.astype(float) for a in args)
    options = {"stride": 1, "padding": 1}
    error = np.abs(y - REFERENCE.conv2d(*wide, **options))
    assert np.all(error <= error_bound("conv2d", wide, options, "float32", winograd=m))
    direct = error_bound("conv2d", wide, options, "float32", winograd=0)
    assert np.any(error > direct)


# -- activations ----------------------------------------------------------------------------------


def all_numbers(dtype):
    """Return every finite number of a 16-bit type below 10^4, and a grid in other types."""
    if dtype == "float16":
        x = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    elif dtype == "bfloat16":
        x = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    else:
        x = np.linspace(-12.0, 12.0, 300_001).astype(dtype)
    return x[np.abs(x) < 1e4]


@pytest.mark.parametrize("operation", ["silu", "gelu", "quick_gelu"])
@pytest.mark.parametrize("backend", NUMPY + TORCH, ids=ids)
def test_activations_of_all_numbers_are_within_their_bounds(backend, operation):
    ops = opened(*backend)
    element = compare(ops, Case(operation, "", (all_numbers(ops.dtype),)))
    assert 0.1 < element.ratio <= 1.0
