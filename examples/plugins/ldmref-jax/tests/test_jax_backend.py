"""The JAX backend: ldmref's own conformance suite, and the embedded model's images."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ldmref_jax import JaxBackend

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import BackendUnavailable, UsageError
from ldmref.testing import assert_conforms

SOURCE = Path(__file__).parents[1] / "src"
SAMPLERS = ("ddim", "euler_a", "heun", "dpmpp_2m", "unipc")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_every_operation(dtype):
    """About 20 seconds for each type: JAX compiles every operation for every shape."""
    assert_conforms(JaxBackend(dtype=dtype))


@pytest.fixture(scope="module")
def models():
    """The embedded model on NumPy and on JAX, whose networks are compiled once."""
    return ldmref.load(backend="numpy"), ldmref.load(backend=JaxBackend())


def difference(first, second):
    """The largest difference of two results' images, of 255."""
    pairs = zip(first.images, second.images, strict=True)
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in pairs)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_image_of_a_seed(models, sampler):
    results = [
        modes.txt2img(model, "red heart", seed=1, steps=8, sampler=sampler) for model in models
    ]
    assert difference(*results) <= 1


def test_other_modes(models):
    """img2img, inpaint, several images, tiles, and guidance that changes the U-Net."""
    image = modes.txt2img(models[0], "blue cat", seed=2, steps=8).images[0]
    mask = np.zeros((128, 128), np.uint8)
    mask[:, 64:] = 255
    calls = [
        lambda model: modes.img2img(model, "green cat", image, strength=0.5, seed=3, steps=8),
        lambda model: modes.inpaint(model, "red heart", image, mask, seed=3, steps=8),
        lambda model: modes.txt2img(model, "red heart", seed=5, count=2, steps=4),
        lambda model: modes.txt2img(model, "red heart", seed=1, steps=4, tile=64),
        lambda model: modes.txt2img(model, "red heart", seed=1, steps=4, guidance="pag"),
    ]
    for call in calls:
        assert difference(*map(call, models)) <= 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(models, dtype):
    """Images differ, but show the same: by less than 1 % on average."""
    model = ldmref.load(backend=JaxBackend(dtype=dtype))
    half = modes.txt2img(model, "red heart", seed=1, steps=8).images[0]
    full = modes.txt2img(models[0], "red heart", seed=1, steps=8).images[0]
    assert np.abs(np.asarray(half, float) - np.asarray(full, float)).mean() < 2.55


def test_compiled_and_one_by_one():
    """Both speeds agree with NumPy in float32."""
    models = [ldmref.random_model("tiny", backend=get_backend("numpy", dtype="float32"))]
    models += [ldmref.random_model("tiny", backend=JaxBackend(speed=s)) for s in JaxBackend.speeds]
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 7)).astype("float32")
    expected, *others = (
        model.backend.to_numpy(model.unet(x, np.asarray([10, 20]), model.encode_text(["a", "cat"])))
        for model in models
    )
    for other in others:
        np.testing.assert_allclose(other, expected, atol=1e-5)


def test_a_network_is_compiled_once_for_a_shape(monkeypatch):
    traced = []
    silu = JaxBackend.silu
    monkeypatch.setattr(JaxBackend, "silu", lambda self, x: traced.append(0) or silu(self, x))
    model = ldmref.random_model("tiny", backend=JaxBackend())
    context = model.encode_text(["a cat"])

    def run(size, t):
        model.unet(np.zeros((1, 4, size, size), "float32"), np.asarray([t]), context)
        return len(traced)

    first = run(8, 10)
    assert first > 0 and run(8, 20) == first
    assert run(6, 20) > first


def test_float64_is_float64():
    models = [
        ldmref.random_model("tiny", backend=get_backend("numpy", dtype="float64")),
        ldmref.random_model("tiny", backend=JaxBackend(dtype="float64")),
    ]
    latents = [modes.txt2img(model, "cat", seed=1, steps=3).latents for model in models]
    np.testing.assert_allclose(*latents, rtol=1e-6)  # recorded in float32
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8))
    outputs = [
        model.backend.to_numpy(model.unet(x, np.asarray([10]), model.encode_text(["cat"])))
        for model in models
    ]
    np.testing.assert_allclose(*outputs, rtol=1e-10, atol=1e-12)


def test_arrays_of_the_host():
    ops = JaxBackend()
    assert str(ops.asarray([1, 2]).dtype) == "int64"
    wide = np.asarray([1.0 + 2.0**-50])
    assert ops.to_numpy(ops.asarray(wide, "float64"))[0] == wide[0]


@pytest.mark.parametrize("speed", JaxBackend.speeds)
def test_integers_are_64_bits_wide_within_a_network(speed):
    """Without 64-bit types JAX's argmax of an int64 array fails."""
    ops = JaxBackend(speed=speed)
    ids = np.asarray([[2**40, 1], [2**40, 2**40 + 1]])

    def network(ops, p, ids):
        return ops.xp.argmax(ids, axis=1), ids + p["one"]

    run = ops.compile(network, {"one": ops.asarray([1, 1])})
    with ops.inference():
        ends, more = run(ops.asarray(ids))
    np.testing.assert_array_equal(ops.to_numpy(ends), [0, 1])
    np.testing.assert_array_equal(ops.to_numpy(more), ids + 1)


CODE = """
import jax.numpy as jnp
from ldmref_jax import JaxBackend
print(jnp.zeros(3).dtype, jnp.arange(3).dtype)
JaxBackend(dtype="bfloat16").asarray([1, 2])
print(jnp.zeros(3).dtype, jnp.arange(3).dtype)
JaxBackend(dtype="float64")
print(jnp.zeros(3).dtype, jnp.arange(3).dtype)
"""


def test_the_default_types_of_the_process_stay_but_for_float64():
    environment = {"PYTHONPATH": f"{SOURCE}:{Path(ldmref.__file__).parents[1]}"}
    ran = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    )
    lines = ran.stdout.splitlines()
    assert lines == ["float32 int32", "float32 int32", "float64 int64"]
    assert not ran.stderr


@pytest.mark.parametrize("device", ["abacus", "cpu:99", "cpu:x", "cuda:7"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(BackendUnavailable) as caught:
        JaxBackend(device=device)
    assert caught.value.code == "E-DEVICE" and repr(device) in str(caught.value)
    assert "cpu:0" in caught.value.hint


def test_an_unknown_speed():
    with pytest.raises(UsageError, match="speed 'fastest' does not exist on the jax backend"):
        JaxBackend(speed="fastest")


def test_a_backend_is_described_and_pickled():
    ops = JaxBackend(dtype="bfloat16", speed="exact")
    assert ops.describe().items() >= {"name": "jax", "dtype": "bfloat16", "speed": "exact"}.items()
    assert ops.describe()["version"]
    other = pickle.loads(pickle.dumps(ops))
    assert (other.dtype, other.speed) == ("bfloat16", "exact")
    ops.synchronize()
