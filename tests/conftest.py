"""Array libraries, backends and hypothesis profiles that all tests share; no network."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import settings

import ldmref

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("test", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))

# The processes that tests start have a user's environment: not what a developer exports for Python.
for name in [name for name in os.environ if name.startswith("PYTHON")]:
    if name not in ("PYTHONPATH", "PYTHONHOME", "PYTHONPLATLIBDIR"):
        del os.environ[name]

pytest_plugins = ("not_tested", "tiers", "durations")  # in the order of their imports

ROOT = Path(__file__).parents[1]
LOOPBACK = ("localhost", "127.0.0.1", "::1", "", None, b"localhost", b"127.0.0.1", b"::1")


class NetworkBlocked(RuntimeError):
    """A test tried to reach another machine."""


def block_network(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: connections go to this machine or nowhere."""
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # others are names of files
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in LOOPBACK:
        raise NetworkBlocked(f"{event} {arguments[1:]}: tests do without a network")


sys.addaudithook(block_network)
modules: dict[str, Any] = sys.modules
modules["openvino_telemetry"] = None  # it reports that OpenVINO was imported, from another process


def read_entry_points_once() -> None:
    """Keep the entry points of the installed packages, which do not change while tests run.

    ldmref reads them whenever it lists families or samplers: four percent of the time of all tests.
    Where `sys.path` has other folders, of packages that a test makes, they are read as ever.
    """
    read = importlib.metadata.entry_points
    fixed = tuple({os.path.realpath(x) for x in (*sys.path, sys.prefix, sys.base_prefix, ROOT)})
    known: dict[Any, Any] = {}

    def entry_points(**wanted: Any) -> Any:
        folders = tuple(sys.path)
        if folders not in installed:
            installed[folders] = all(os.path.realpath(x).startswith(fixed) for x in folders)
        if not installed[folders]:
            return read(**wanted)
        key = folders, *sorted(wanted.items())
        if key not in known:
            known[key] = read(**wanted)
        return known[key]

    installed: dict[tuple[str, ...], bool] = {}
    importlib.metadata.entry_points = entry_points


read_entry_points_once()

NAMESPACES = {
    "numpy": "array_api_compat.numpy",
    "array_api_strict": "array_api_strict",
    "torch": "array_api_compat.torch",
    "cupy": "array_api_compat.cupy",
}


def skip(library: str, reason: object) -> NoReturn:
    """Skip this test because of a library that is not here."""
    pytest.skip(f"{library}: {' '.join(str(reason).split())}")


@cache
def why_not(library: str) -> str | None:
    """Return why tests cannot use `library`; None if it is installed and, for cupy, sees a GPU."""
    try:
        module = importlib.import_module(library)
    except ImportError as error:
        return f"not installed ({error})"
    if library == "cupy":
        try:
            devices = module.cuda.runtime.getDeviceCount()
        except Exception as error:
            return f"no GPU ({error})"
        if devices == 0:
            return "no GPU"
    return None


def require(library: str) -> None:
    """Skip unless `library` can be imported and, for cupy, sees a GPU."""
    reason = why_not(library)
    if reason is not None:
        skip(library, reason)


def pytest_collection_finish(session):
    """Leave the collected tests and imported modules out of garbage collections.

    They are millions of objects, which every full collection of the run would visit.
    """
    gc.collect()
    gc.freeze()


CUPY = [pytest.param("cupy", marks=pytest.mark.gpu)] if why_not("cupy") is None else []


def pytest_configure(config):
    """Say once that no parameter is CuPy here, in place of skipping a thousand tests."""
    if not CUPY:
        reason = f"cupy: {why_not('cupy')}; no test has it as a parameter"
        config.pluginmanager.get_plugin("not_tested").not_collected[reason] = 1


@pytest.fixture(scope="session", params=["numpy", "array_api_strict", "torch", *CUPY])
def library(request):
    """Return the name of an array library that is here."""
    require(request.param)
    return request.param


@pytest.fixture(scope="session")
def xp(library):
    """Return the array-API namespace of each array library that is here."""
    return importlib.import_module(NAMESPACES[library])


@pytest.fixture(scope="session", params=["float64", "float32"])
def dtype(request):
    """Return the name of a floating type, to sample arrays in and to look up on `xp`."""
    return request.param


@pytest.fixture(scope="session", params=["numpy", "torch", *CUPY])
def ops(request, dtype):
    """Each backend that can run here, in float32 and float64."""
    from ldmref.backends import get_backend

    require(request.param)
    return get_backend(request.param, dtype=dtype)


@pytest.fixture(scope="session")
def tiny():
    """Return the smallest model, with images of 16 x 16; tests must not change it."""
    return ldmref.random_model("tiny", backend="numpy")


def to_numpy(x) -> np.ndarray:
    """Return an array of any of the libraries, on the host."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    return x.get() if hasattr(x, "get") else np.asarray(x)


@pytest.fixture(scope="session", name="to_numpy")
def _to_numpy():
    return to_numpy


@pytest.fixture(scope="session", name="skip")
def _skip():
    """`skip(what, reason)`: skips this test, and says so loudly at the end of the run."""
    return skip


@pytest.fixture(scope="session")
def xp_assert_close():
    """Assert that two arrays agree in library, dtype, shape and values."""

    def check(actual, desired, like=None, ulps=8.0, scale=0.0):
        """Check that `actual` is `desired` up to `ulps` roundings of max(|desired|, scale).

        `like` gives the library and dtype to expect where `desired` is an oracle's float64 array.
        `scale` is the size of the terms that went in, a number or an array of `desired`'s shape.
        """
        like = desired if like is None else like
        assert array_namespace(actual) is array_namespace(like)
        assert actual.dtype == like.dtype
        got = to_numpy(actual)
        want = to_numpy(desired)
        assert got.shape == want.shape
        precision = np.finfo(got.dtype)
        bound = ulps * precision.eps * np.maximum(np.abs(want), to_numpy(scale))
        bound = bound + ulps * float(precision.smallest_subnormal)  # where rounding is absolute
        error = np.abs(got.astype(np.float64) - want)
        wrong = ~(error <= bound)
        assert not wrong.any(), f"off by {error[wrong]}, allowed {bound[wrong]}: {got} != {want}"

    return check
