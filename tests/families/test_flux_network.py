"""The transformer of Flux.1 against diffusers, on tiny random weights in float64."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.families.flux.network import cut_patches, join_patches, transformer, transformer_spec
from ldmref.models.params import flatten, unflatten

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from flux_networks import config_of, in_float64, make_transformer  # noqa: E402

PACK = diffusers.FluxPipeline._pack_latents
PIXELS = 8  # of a cell
T = 1000  # ours are the times of training, diffusers' those of the flow


def draw(rows, columns, channels=4):
    """Return latents of so many patches, times, hidden states, pooled text and guidance."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, channels, 2 * rows, 2 * columns))
    states, pooled = rng.standard_normal((2, 5, 20)), rng.standard_normal((2, 16))
    return x, np.array([0.0035, 0.7]), states, pooled, np.array([3.5, 1.0])


def predict(ops, theirs, config, arrays):
    params = {name: ops.asarray(x.numpy()) for name, x in theirs.state_dict().items()}
    arrays = arrays if config.guidance_embeds else arrays[:4]
    arrays = arrays[0], T * arrays[1], *arrays[2:]
    with ops.inference():
        output = transformer(ops, unflatten(params), config, *map(ops.asarray, arrays))
    return ops.to_numpy(output)


def predict_theirs(theirs, guidance, arrays):
    x, t, states, pooled, scales = map(torch.tensor, arrays)
    n, c, h, w = x.shape
    ids = diffusers.FluxPipeline._prepare_latent_image_ids(n, h // 2, w // 2, "cpu", x.dtype)
    with torch.no_grad():
        packed = theirs(
            PACK(x, n, c, h, w),
            states,
            pooled,
            t,
            ids,
            torch.zeros(states.shape[1], 3),
            scales if guidance else None,
        ).sample
    unpack = diffusers.FluxPipeline._unpack_latents
    return unpack(packed, h * PIXELS, w * PIXELS, PIXELS).numpy()


@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (6, 1)])
def test_the_transformer_is_that_of_diffusers(guidance, backend, grid, monkeypatch):
    theirs = in_float64(make_transformer(guidance), monkeypatch)
    want = predict_theirs(theirs, guidance, draw(*grid))
    ops = get_backend(backend, dtype="float64")
    got = predict(ops, theirs, config_of(guidance), draw(*grid))
    assert np.abs(got - want).max() < 1e-10 * np.abs(want).max()


def test_more_input_channels(monkeypatch):
    """As in Flux.1 Fill and Canny: the joined image is packed together with the latents."""
    theirs = in_float64(make_transformer(True, 9), monkeypatch)
    want = predict_theirs(theirs, True, draw(2, 3, 9))
    ops = get_backend("numpy", dtype="float64")
    got = predict(ops, theirs, config_of(True, 9), draw(2, 3, 9))
    assert got.shape == (2, 4, 4, 6) and np.abs(got - want).max() < 1e-10 * np.abs(want).max()


@pytest.mark.parametrize("guidance", [True, False])
def test_names_and_shapes_are_those_of_diffusers(guidance):
    stored = make_transformer(guidance).state_dict()
    theirs = {name: tuple(x.shape) for name, x in stored.items()}
    assert flatten(transformer_spec(config_of(guidance))) == theirs


def test_patches_are_those_of_diffusers():
    ops = get_backend("numpy", dtype="float64")
    x = draw(3, 5)[0]
    patches = cut_patches(ops, x)
    assert (patches.reshape(2, 15, 16) == PACK(torch.tensor(x), 2, 4, 6, 10).numpy()).all()
    assert (join_patches(patches.reshape(2, 15, 16), 3, 5) == x).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_other_types_of_numbers(dtype):
    theirs = make_transformer(True).double()
    arrays = draw(4, 4)
    want = predict(get_backend("numpy", dtype="float64"), theirs, config_of(True), arrays)
    ops = get_backend("torch", dtype=dtype)
    x, t, states, pooled, scales = arrays
    times = ops.asarray(T * t, ops.state_dtype), ops.asarray(scales, ops.state_dtype)
    params = {name: ops.asarray(x.numpy()) for name, x in theirs.state_dict().items()}
    others = map(ops.asarray, (states, pooled))
    with ops.inference():
        got = transformer(
            ops, unflatten(params), config_of(True), ops.asarray(x), times[0], *others, times[1]
        )
    least = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}[dtype]
    assert np.abs(ops.to_numpy(got) - want).max() < least * np.abs(want).max()


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_graphs_compute_the_same(backend):
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    theirs = make_transformer(True)
    found = {}
    for name in ("numpy", backend):
        ops = get_backend(name)
        params = {key: ops.weight(x.numpy()) for key, x in theirs.state_dict().items()}
        network = ops.compile(transformer, unflatten(params))
        sizes = (4, 4), (3, 5)
        found[name] = [
            ops.to_numpy(network(config_of(True), *map(ops.asarray, draw(*grid)))) for grid in sizes
        ]
    for got, want in zip(found[backend], found["numpy"], strict=True):
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
