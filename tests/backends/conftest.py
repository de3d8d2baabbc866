"""The real CuPy backend, and a stand-in for machines without a GPU."""

import types

import numpy as np
import pytest

import ldmref.backends.cupy
from ldmref.backends import get_backend
from ldmref.backends.cupy import CupyBackend
from ldmref.errors import BackendUnavailable

STAND_INS: list[str] = []


def pytest_terminal_summary(terminalreporter):
    if STAND_INS:
        terminalreporter.section("STAND-IN, NOT A GPU", yellow=True, bold=True)
        line = f"{len(STAND_INS)} tests of the cupy backend ran on NumPy in CuPy's clothes"
        terminalreporter.write_line(f"{line}; they prove nothing about a GPU", yellow=True)


class DeviceArray(np.ndarray):
    """A NumPy array that, like CuPy's, refuses to meet a host array or to become one unasked."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        _refuse_host_arrays((*inputs, *out))
        arrays = [x.view(np.ndarray) if isinstance(x, DeviceArray) else x for x in inputs]
        if out:
            kwargs["out"] = tuple(x.view(np.ndarray) for x in out)
        return _on_device(getattr(ufunc, method)(*arrays, **kwargs))

    def __setitem__(self, key, value):
        _refuse_host_arrays((value,))
        super().__setitem__(key, value)


def _refuse_host_arrays(values):
    for x in values:
        if isinstance(x, np.ndarray) and not isinstance(x, DeviceArray):
            raise TypeError(f"Unsupported type {type(x)}")  # the words of CuPy


def _on_device(y):
    if isinstance(y, np.ndarray | np.generic):
        return np.asarray(y).view(DeviceArray)
    return y


def _shim() -> types.ModuleType:
    """A module with the functions of CuPy that the backend uses, on NumPy."""

    def wrap(function):
        def wrapped(*args, **kwargs):
            _refuse_host_arrays(args)
            return _on_device(function(*args, **kwargs))

        return wrapped

    cupy = types.ModuleType("cupy_stand_in")
    names = "pad empty ones mean sqrt arange where exp tanh"
    for name in names.split():
        setattr(cupy, name, wrap(getattr(np, name)))
    cupy.dtype, cupy.inf, cupy.promote_types = np.dtype, np.inf, np.promote_types
    cupy.__version__ = "stand-in"
    cupy.asarray = lambda x: _on_device(np.asarray(x))
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
            self.outer, Device.current = Device.current, self.index

        def __exit__(self, *_):
            Device.current = self.outer

    cupy.cuda = types.SimpleNamespace(Device=Device)
    return cupy


@pytest.fixture
def fake_cupy(request, monkeypatch):
    """CupyBackend on a NumPy stand-in for CuPy: exercises our code, proves nothing about a GPU."""
    import array_api_compat.numpy as xp
    from scipy.special import erf

    STAND_INS.append(request.node.nodeid)
    cupy = _shim()

    def device_erf(x):
        return _on_device(erf(x.view(np.ndarray)))

    monkeypatch.setattr(ldmref.backends.cupy, "_libraries", lambda: (cupy, xp, device_erf))
    return cupy


@pytest.fixture
def gpu_dtype_backend():
    """A factory of real CuPy backends; skips without a GPU."""

    def make(dtype: str) -> CupyBackend:
        try:
            return get_backend("cupy", dtype=dtype)
        except BackendUnavailable as error:
            pytest.skip(f"no GPU for CuPy here: {error}")

    return make
