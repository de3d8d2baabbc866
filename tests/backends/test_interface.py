"""The interface of every backend: arguments, descriptions, conversions, bounds on memory."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.backends.cupy import CupyBackend
from ldmref.backends.fast.cupy import FastCupyBackend
from ldmref.backends.numpy import NumpyBackend
from ldmref.backends.traced import TracedBackend
from ldmref.errors import BackendUnavailable, UsageError

SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@pytest.mark.parametrize("dtype", SIZES)
def test_sizes_and_states_of_a_dtype(dtype):
    ops = Backend(dtype=dtype)
    assert ops.weight_bytes((3, 5, 2), 10**6) == 30 * SIZES[dtype]
    assert ops.weight_bytes((), 0) == SIZES[dtype]
    assert ops.state_dtype == ("float64" if dtype == "float64" else "float32")
    assert (ops.device, ops.dtype, ops.speed) == ("cpu", dtype, "exact")
    assert Backend().dtype == "float32" and not ops.compiles and ops.version() == ""
    assert repr(ops) == f"<base backend, cpu, {dtype}>"


def test_the_first_speed_is_the_default():
    class Mine(Backend):
        name = "mine"
        dtypes = ("float32",)
        speeds = ("fast", "exact")

    assert Mine().speed == "fast" and Mine(speed="exact").speed == "exact"
    for arguments, code, nearest in (
        ({"speed": "exakt"}, "E-SPEED", "exact"),
        ({"dtype": "float23"}, "E-DTYPE", "float32"),
    ):
        with pytest.raises(UsageError, match="mine backend") as caught:
            Mine(**arguments)
        assert caught.value.code == code and nearest in caught.value.hint


@pytest.mark.parametrize(
    "name,dtype,speed",
    [("numpy", "float64", None), ("numpy", None, "fastest"), ("torch", "bfloat16", "exact")],
)
def test_a_backend_is_pickled_as_its_arguments(name, dtype, speed):
    pytest.importorskip(name)
    ops = get_backend(name, dtype=dtype, speed=speed)
    again = pickle.loads(pickle.dumps(ops))
    assert type(again) is type(ops) and again.describe() == ops.describe()
    assert set(ops.describe()) == {"name", "version", "device", "dtype", "speed"}
    assert ops.describe()["version"] == ops.version() != ""


@pytest.mark.parametrize(
    "value,finite", [(1e300, True), (np.nan, False), (np.inf, False), (-np.inf, False)]
)
def test_numbers_that_are_not_finite_are_found(value, finite):
    ops = get_backend("numpy", dtype="float64")
    x = np.zeros((2, 3))
    x[1, 1] = value
    assert ops.is_finite(x) is finite


def test_conversions(ops):
    for x in (np.arange(4, dtype=np.int32), np.array([True, False]), [3, 4]):
        y = ops.asarray(x)
        assert str(y.dtype).endswith("int64") and ops.to_numpy(y).tolist() == [int(v) for v in x]
    for dtype in (None, "float32", "float64"):
        assert str(ops.asarray([0.5], dtype).dtype).endswith(dtype or ops.dtype)
        assert str(ops.cast(ops.asarray([0.5]), dtype or ops.dtype).dtype).endswith(
            dtype or ops.dtype
        )


def test_conversions_that_need_no_copy_make_none():
    x = np.ones((3, 4), np.float32)
    assert get_backend("numpy").asarray(x) is x
    torch = pytest.importorskip("torch")
    ops = get_backend("torch")
    assert np.shares_memory(ops.asarray(x).numpy(), x)
    for view in (x.T, x[:, ::2]):
        assert not np.shares_memory(ops.asarray(view).numpy(), x)
    x.flags.writeable = False
    assert not np.shares_memory(ops.asarray(x).numpy(), x)
    assert torch.backends.cudnn.allow_tf32 == DEFAULT_TF32  # for CUDA only


try:
    import torch

    DEFAULT_TF32 = torch.backends.cudnn.allow_tf32
except ImportError:
    DEFAULT_TF32 = None


def test_devices_that_are_not_there_list_those_that_are():
    pytest.importorskip("torch")
    with pytest.raises(BackendUnavailable, match="abacus") as caught:
        get_backend("torch", device="abacus")
    assert caught.value.hint.startswith("devices here: cpu") and caught.value.exit_code == 5
    with pytest.raises(BackendUnavailable, match="'cuda'") as caught:
        get_backend("numpy", device="cuda")
    assert "torch" in caught.value.hint


def check_defaults(ops):
    """Stride 1, no padding, no bias, no mask."""
    draw = np.random.default_rng(0).standard_normal
    x, w, rows, q = (
        ops.asarray(draw(s)) for s in ((1, 6, 5, 4), (2, 6, 3, 3), (3, 6), (1, 1, 4, 6))
    )
    matrix = ops.asarray(draw((4, 6)))
    zeros = {n: ops.asarray(np.zeros(n)) for n in (2, 4)}
    pairs = [
        (ops.conv2d(x, w), ops.conv2d(x, w, zeros[2], 1, 0)),
        (ops.linear(rows, matrix), ops.linear(rows, matrix, zeros[4])),
        (ops.geglu(rows, matrix), ops.geglu(rows, matrix, zeros[4])),
        (ops.attention(q, q, q), ops.attention(q, q, q, causal=False)),
    ]
    for got, want in pairs:
        np.testing.assert_allclose(ops.to_numpy(got), ops.to_numpy(want), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("speed", ["exact", "fast"])
def test_what_may_be_left_out(name, speed):
    pytest.importorskip(name)
    check_defaults(get_backend(name, speed=speed))


@pytest.mark.parametrize("backend", [CupyBackend, FastCupyBackend])
def test_STAND_IN_not_a_gpu_what_may_be_left_out(fake_cupy, backend):
    check_defaults(backend())


def test_compile_binds_backend_and_parameters():
    ops = get_backend("numpy")
    run = ops.compile(lambda *args, **more: (args, more), {"w": 1})
    assert run(2, x=3) == ((ops, {"w": 1}, 2), {"x": 3})


# -- the reference's workspace --------------------------------------------------------------------

MIB = 2**20
IMAGES = np.ones((2, 8, 128, 130))
TOKENS = np.ones((2, 2, 512, 8))
SCORE_BIAS = np.ones((1, 2, 512, 512))
FLOOR = {  # bytes of the result and of padded inputs
    "conv2d": 2 * (2 * 8 * 130 * 132 * 8),
    "attention": TOKENS.nbytes,
    "biased attention": TOKENS.nbytes,
}
WORK = {
    "conv2d": lambda ops: ops.conv2d(IMAGES, np.ones((8, 8, 3, 3)), None, 1, 1),
    "attention": lambda ops: ops.attention(TOKENS, TOKENS, TOKENS),
    "biased attention": lambda ops: ops.attention(TOKENS, TOKENS, TOKENS, bias=SCORE_BIAS),
}


@pytest.mark.parametrize("name", WORK)
def test_the_reference_keeps_to_its_workspace(monkeypatch, name):
    """Blocks fill it, and with their temporaries take a few times as much at most."""
    peaks = {}
    for workspace in (MIB, 4 * MIB):
        monkeypatch.setattr(NumpyBackend, "workspace", workspace)
        ops = get_backend("numpy", dtype="float64")
        tracemalloc.start()
        WORK[name](ops)
        peaks[workspace] = tracemalloc.get_traced_memory()[1] - FLOOR[name]
        tracemalloc.stop()
        assert 0.5 * workspace < peaks[workspace] < 4 * workspace
    assert peaks[4 * MIB] > 2 * peaks[MIB]


# -- tracing --------------------------------------------------------------------------------------


def test_a_traced_operation_is_timed_between_two_waits_for_the_device():
    class Device(NumpyBackend):
        waits = ()

        def synchronize(self):
            self.waits = (*self.waits, "wait")

        def silu(self, x):
            self.waits = (*self.waits, "silu")
            return super().silu(x)

    inner = Device()
    ops = TracedBackend(inner)
    ops.silu(ops.asarray([1.0]))
    assert inner.waits == ("wait", "silu", "wait")
    assert not ops.compiles and ops.inner is inner
