"""The transformer of Flux.1 against diffusers, on tiny random weights in float64."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.families.flux.network import double_block, transformer
from ldmref.math.tokens import cut_patches, join_patches
from ldmref.models.params import unflatten

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


def test_patches_are_those_of_diffusers():
    x = draw(3, 5)[0]
    patches = cut_patches(x)
    assert (patches.reshape(2, 15, 16) == PACK(torch.tensor(x), 2, 4, 6, 10).numpy()).all()
    assert (join_patches(patches.reshape(2, 15, 16), 3, 5) == x).all()


def test_both_streams_of_a_block_are_those_of_diffusers(monkeypatch):
    """The text's, too: after the last of these blocks the image depends on it by attention alone.

    In float64, both sum fewer than 1,000 products of numbers of size 1 in another order.
    """
    ops, config = get_backend("numpy", dtype="float64"), config_of(True)
    theirs = in_float64(make_transformer(True), monkeypatch)
    block, width = theirs.transformer_blocks[0], theirs.inner_dim
    rng = np.random.default_rng(1)
    x, text, emb = (rng.standard_normal(s) for s in ((2, 6, width), (2, 5, width), (2, width)))
    positions = np.concatenate([np.zeros((5, 3)), np.indices((1, 2, 3)).reshape(3, -1).T])
    with torch.no_grad():
        turns = theirs.pos_embed(torch.tensor(positions))
        want = block(*map(torch.tensor, (x, text, emb)), image_rotary_emb=turns)
    params = {name: array.numpy() for name, array in block.state_dict().items()}
    heads, dims = config.num_attention_heads, config.axes_dims_rope
    got = double_block(ops, unflatten(params), x, text, emb, positions, dims, heads)
    for own, other in zip(got, want, strict=True):
        assert np.abs(own - other.numpy()).max() < 1e-12 * np.abs(other.numpy()).max()


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
