"""The CuPy backend: clear words without a GPU, our code on a stand-in, the truth where a GPU is."""

import sys

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.backends.cupy import CupyBackend
from ldmref.backends.fast.cupy import FastCupyBackend
from ldmref.backends.numpy import NumpyBackend
from ldmref.backends.traced import TracedBackend
from ldmref.errors import BackendUnavailable, UsageError
from ldmref.models import autoencoder, params
from ldmref.models.presets import preset
from ldmref.testing import assert_conforms

DTYPES = ("float64", "float32", "float16")


def test_without_cupy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendUnavailable) as caught:
        get_backend("cupy")
    assert caught.value.code == "E-BACKEND" and caught.value.exit_code == 5
    assert "\n" not in str(caught.value) and "pip install 'ldmref[cupy]'" in caught.value.hint


def test_without_a_gpu_the_error_gives_the_reason():
    cupy = pytest.importorskip("cupy")
    if cupy.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendUnavailable, match=r"cuda:0.*: .*CUDA") as caught:
        get_backend("cupy")
    assert caught.value.code == "E-BACKEND" and "NVIDIA GPU" in caught.value.hint


@pytest.mark.parametrize("device", ["cpu", "cuda:", "cuda:x", "gpu", "cuda:-1"])
def test_other_devices_are_refused(device):
    with pytest.raises(BackendUnavailable, match="has no device") as caught:
        get_backend("cupy", device=device)
    assert caught.value.code == "E-DEVICE"


def test_bfloat16_is_refused():
    with pytest.raises(UsageError, match="bfloat16"):
        get_backend("cupy", dtype="bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_STAND_IN_not_a_gpu_operations_conform(fake_cupy, dtype):
    assert_conforms(CupyBackend(dtype=dtype))


@pytest.mark.parametrize("workspace", [None, 2**12])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_STAND_IN_not_a_gpu_operations_conform_at_full_speed(
    fake_cupy, monkeypatch, dtype, workspace
):
    if workspace:
        monkeypatch.setattr(FastCupyBackend, "workspace", workspace)
    assert_conforms(FastCupyBackend(dtype=dtype))


@pytest.mark.parametrize(
    ("dtype", "speed", "found"),
    [(None, None, CupyBackend), ("float16", "fast", FastCupyBackend), (None, "exact", CupyBackend)],
)
def test_STAND_IN_not_a_gpu_the_speed_is_as_asked(fake_cupy, dtype, speed, found):
    ops = get_backend("cupy", dtype=dtype, speed=speed)
    assert type(ops) is found and ops.speed == (speed or "exact")
    with pytest.raises(UsageError, match="speed 'fast' does not exist"):
        get_backend("cupy", dtype="float64", speed="fast")


def test_STAND_IN_not_a_gpu_autoencoder_equals_numpy(fake_cupy, rounding_bound):
    config = preset("tiny").vae
    p = params.init(autoencoder.autoencoder_spec(config), seed=0)
    image = np.random.default_rng(0).uniform(-1.0, 1.0, (2, 3, 16, 16))
    images = []
    for ops in map(
        TracedBackend, (get_backend("numpy", dtype="float64"), CupyBackend(dtype="float64"))
    ):
        mine = params.tree_map(ops.asarray, p)
        mean, _ = autoencoder.encode(ops, mine, config, ops.asarray(image))
        y = autoencoder.decode(ops, mine, config, mean)
        images.append(ops.to_numpy(y))
    assert type(y) is not np.ndarray  # it stayed "on the device"
    bound = 2 * rounding_bound(ops.records, "float64") * np.abs(images[0]).max()
    np.testing.assert_allclose(images[1], images[0], rtol=0, atol=bound)


def test_STAND_IN_not_a_gpu_device_names(fake_cupy):
    assert CupyBackend("cuda").device == CupyBackend().device == "cuda:0"
    ops = CupyBackend("cuda:1", "float16")
    assert fake_cupy.cuda.Device.current == 1
    fake_cupy.cuda.Device.current = 0  # as in another thread
    with ops.inference():
        assert fake_cupy.cuda.Device.current == 1
    assert fake_cupy.cuda.Device.current == 0
    assert ops.describe() == {
        "name": "cupy",
        "version": "stand-in",
        "device": "cuda:1",
        "dtype": "float16",
        "speed": "exact",
    }
    with pytest.raises(BackendUnavailable, match="invalid device ordinal"):
        CupyBackend("cuda:7")


def test_STAND_IN_not_a_gpu_without_cublas_or_a_compiler_there_is_no_backend(fake_cupy):
    """They are loaded with the first product, which belongs to the opening of the device."""
    for words, reason in (
        ("libcublas.so is missing\nand more", "libcublas.so is missing"),
        ("", "RuntimeError"),
    ):

        def fails(x, words=words):
            raise RuntimeError(words)

        fake_cupy.asnumpy = fails
        with pytest.raises(BackendUnavailable) as caught:
            CupyBackend("cuda:1")
        assert caught.value.code == "E-BACKEND" and "NVIDIA GPU" in caught.value.hint
        assert str(caught.value) == f"the cupy backend cannot use device 'cuda:1': {reason}"


def test_STAND_IN_not_a_gpu_work_waits_for_its_own_device(fake_cupy):
    waited = []
    fake_cupy.cuda.Device.synchronize = lambda device: waited.append(device.index)
    CupyBackend("cuda:1").synchronize()
    assert waited == [1]


@pytest.mark.parametrize("backend", [CupyBackend, FastCupyBackend])
def test_STAND_IN_not_a_gpu_images_go_through_in_blocks_that_fit(fake_cupy, monkeypatch, backend):
    """As many images at a time as the workspace holds columns of, and one at least."""
    reference = NumpyBackend(dtype="float64")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3, 6, 7))
    weight = rng.standard_normal((4, 3, 3, 3))
    bias = rng.standard_normal(4)
    want = reference.conv2d(x, weight, bias, 2, 1)
    one = 3 * 4 * 9 * 3 * 4  # bytes of an image's columns, 3 x 4 of 3 x 3 x 3 numbers
    joined = []
    concatenate = fake_cupy.concatenate
    fake_cupy.concatenate = lambda y: joined.append(len(y)) or concatenate(y)
    for workspace in (one // 2, 2 * one, 5 * one, 5 * one - 1):
        monkeypatch.setattr(backend, "workspace", workspace)
        ops = backend(dtype="float32")
        arrays = (ops.weight(ops.asarray(weight)), ops.asarray(bias))
        got = ops.to_numpy(ops.conv2d(ops.asarray(x), *arrays, 2, 1))
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert joined == ([5, 3, 2] if backend is FastCupyBackend else [])  # all at once: not joined


def test_STAND_IN_not_a_gpu_kernels_lie_as_the_columns_that_they_multiply(fake_cupy):
    ops = FastCupyBackend()
    host = np.random.default_rng(0).standard_normal((4, 3, 3, 3))
    weight = ops.weight(host)
    assert weight.transpose(2, 3, 1, 0).flags.c_contiguous and weight.dtype == np.float32
    np.testing.assert_array_equal(weight.view(np.ndarray), host.astype(np.float32))
    assert ops.weight(host[0, 0]).flags.c_contiguous
    y = ops.upsample2x(ops.asarray(host))
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous


def test_STAND_IN_refuses_to_mix_host_and_device(fake_cupy):
    """The stand-in must be as strict as CuPy. The tests above rely on that."""
    ops = CupyBackend(dtype="float64")
    x = ops.asarray(np.ones((2, 3)))
    with pytest.raises(TypeError, match="Unsupported type"):
        ops.linear(x, np.ones((4, 3)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_operations_conform_on_a_real_gpu_at_full_speed(gpu_dtype_backend, dtype):
    assert_conforms(gpu_dtype_backend(dtype, "fast"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_operations_conform_on_a_real_gpu(gpu_dtype_backend, dtype):
    assert_conforms(gpu_dtype_backend(dtype))
