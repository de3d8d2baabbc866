"""The real CuPy backend, and a stand-in for machines without a GPU."""

import math
import re
import types
from collections.abc import Iterable

import numpy as np
import pytest
from device_arrays import on_device, refuse_host_arrays
from scipy.special import erf

import ldmref.backends.cupy
from ldmref.backends import get_backend
from ldmref.backends.cupy import CupyBackend
from ldmref.backends.traced import Record
from ldmref.errors import BackendUnavailable
from ldmref.testing.conformance import EPS


def _terms(record: Record) -> float:
    """Return the length of the sums in an operation: 1 for elementwise ones."""
    if record.name == "attention":
        return record.inputs[0][3] + record.inputs[1][2]
    return max(1.0, record.flops / (2 * math.prod(record.output)))


@pytest.fixture
def rounding_bound():
    """Return the bound on a network's rounding error, relative to the largest value.

    Each operation errs by at most eps (4 + sqrt(terms)) on the inputs of these tests, and the
    errors of successive operations are independent and add up in quadrature. float16 and bfloat16
    sum in float32: an operation rounds a product and its bias, a norm, its scale and its shift, or
    the factors of an activation, at most three times by eps / 2.
    """

    def bound(records: Iterable[Record], dtype: str) -> float:
        if dtype in ("float16", "bfloat16"):
            return EPS[dtype] / 2 * 3 * math.sqrt(len(list(records)))
        squares = ((4 + math.sqrt(_terms(record))) ** 2 for record in records)
        return EPS[dtype] * math.sqrt(sum(squares))

    return bound


def _shim() -> types.ModuleType:
    """Return a module with the functions of CuPy that the backend uses, on NumPy."""

    def wrap(function):
        def wrapped(*args, **kwargs):
            refuse_host_arrays(args)
            return on_device(function(*args, **kwargs))

        return wrapped

    cupy = types.ModuleType("cupy_stand_in")
    names = "pad empty ones zeros mean sqrt arange where exp tanh concatenate ascontiguousarray"
    for name in names.split():
        setattr(cupy, name, wrap(getattr(np, name)))
    cupy.dtype = np.dtype
    cupy.inf = np.inf
    cupy.promote_types = np.promote_types
    cupy.__version__ = "stand-in"
    cupy.asarray = lambda x: on_device(np.asarray(x))
    cupy.asnumpy = lambda x: np.array(x.view(np.ndarray))  # a copy to the host
    tricks = types.SimpleNamespace(
        sliding_window_view=wrap(np.lib.stride_tricks.sliding_window_view)
    )
    cupy.lib = types.SimpleNamespace(stride_tricks=tricks)

    class Device:
        current: int | None = None

        def __init__(self, index):
            self.index = index

        def use(self):
            if self.index > 1:
                raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
            Device.current = self.index

        def synchronize(self):
            pass

        def __enter__(self):
            self.outer = Device.current
            Device.current = self.index

        def __exit__(self, *_):
            Device.current = self.outer

    cupy.cuda = types.SimpleNamespace(Device=Device)
    cupy.ElementwiseKernel = ElementwiseKernel
    cupy.ReductionKernel = ReductionKernel
    return cupy


class ElementwiseKernel:
    """`y = expression` of CUDA C, read as Python; the preamble's functions are one return each."""

    def __init__(self, inputs, outputs, operation, name, preamble=""):
        assert outputs == "T y" and operation.startswith("y = ")
        self.names = [declaration.split()[1] for declaration in inputs.split(", ")]
        self.types = [declaration.split()[0] for declaration in inputs.split(", ")]
        self.known = {"expf": np.exp, "erff": erf, "rsqrtf": lambda x: 1.0 / np.sqrt(x)}
        for line in preamble.strip().splitlines():
            found = re.fullmatch(r"__device__ float (\w+)\(float x\) { return (.+); }", line)
            self.known[found[1]] = eval(f"lambda x: {_python(found[2])}", self.known)
        self.operation = compile(_python(operation.removeprefix("y = ")), name, "eval")

    def __call__(self, *args):
        refuse_host_arrays(args)
        kinds = {x.dtype for x, kind in zip(args, self.types, strict=True) if kind == "T"}
        assert len(kinds) == 1, "CuPy infers one type T"
        for x, kind in zip(args, self.types, strict=True):
            assert kind == "T" or isinstance(x, float) or x.dtype == kind
        values = [
            np.float32(x) if isinstance(x, float) else np.asarray(x, np.float32) for x in args
        ]
        with np.errstate(over="ignore"):  # expf gives inf and says nothing
            y = eval(self.operation, self.known, dict(zip(self.names, values, strict=True)))
        return on_device(y.astype(kinds.pop()))


def sum_by_pairs(x, axis, keepdims):
    """Sum as a GPU does, as a tree; NumPy does so along a contiguous last axis only."""
    axes = tuple(np.atleast_1d(axis) % x.ndim)
    last = np.moveaxis(x, axes, range(-len(axes), 0))
    kept = last.shape[: x.ndim - len(axes)]
    sums = np.ascontiguousarray(last).reshape(*kept, -1).sum(axis=-1)
    return np.expand_dims(sums, axes) if keepdims else sums


class ReductionKernel(ElementwiseKernel):
    """The sum, in float32, of such an expression."""

    def __init__(self, inputs, outputs, term, reduce, post, identity, name, reduce_type):
        assert (outputs, reduce, post) == ("float32 y", "a + b", "y = a")
        assert (identity, reduce_type) == ("0", "float")
        super().__init__(inputs, "T y", f"y = {term}", name)

    def __call__(self, *args, axis, keepdims):
        wide = [x.astype(np.float32) if isinstance(x, np.ndarray) else x for x in args]
        terms = super().__call__(*wide)
        return on_device(sum_by_pairs(terms.view(np.ndarray), axis, keepdims))


def _python(expression):
    return re.sub(r"(\d)f\b", r"\1", expression.replace("(float)", "").replace("(T)", ""))


@pytest.fixture
def fake_cupy(request, monkeypatch):
    """CupyBackend on a NumPy stand-in for CuPy: exercises our code, proves nothing about a GPU."""
    import array_api_compat.numpy as xp

    request.node.user_properties.append(("stand-in", "cupy"))  # tests/conftest.py says so loudly
    cupy = _shim()

    def device_erf(x):
        return on_device(erf(x.view(np.ndarray)))

    monkeypatch.setattr(ldmref.backends.cupy, "_libraries", lambda: (cupy, xp, device_erf))
    return cupy


@pytest.fixture
def gpu_dtype_backend():
    """A factory of real CuPy backends; skips without a GPU."""

    def make(dtype: str, speed: str = "exact") -> CupyBackend:
        try:
            return get_backend("cupy", dtype=dtype, speed=speed)
        except BackendUnavailable as error:
            pytest.skip(f"no GPU for CuPy here: {error}")

    return make
