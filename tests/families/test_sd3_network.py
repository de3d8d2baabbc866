"""The transformer of Stable Diffusion 3 against diffusers, on tiny random weights in float64."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.errors import UsageError
from ldmref.families.joint_controls import BlockResiduals
from ldmref.families.sd3 import STEERABLE
from ldmref.families.sd3.network import transformer
from ldmref.models.params import unflatten
from ldmref.models.steering import SteeredNetwork
from ldmref.samplers import LayersLeftOut

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
from sd3_networks import KINDS, config_of, in_float64, make_transformer  # noqa: E402


def draw(rows, columns):
    """Return latents of so many patches, times, hidden states and pooled text."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 2 * rows, 2 * columns))
    states = rng.standard_normal((2, 5, 40))
    return x, np.array([3.5, 700.0]), states, rng.standard_normal((2, 24))


def predict(ops, theirs, config, arrays, network=transformer, **options):
    params = {name: ops.asarray(x.numpy()) for name, x in theirs.state_dict().items()}
    with ops.inference():
        output = network(ops, unflatten(params), config, *map(ops.asarray, arrays), **options)
    return ops.to_numpy(output)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [(0,), (1, 2)])
def test_blocks_can_be_left_out(kind, skip):
    theirs = in_float64(make_transformer(kind))
    x, t, states, pooled = map(torch.tensor, draw(3, 4))
    with torch.no_grad():
        want = theirs(x, states, pooled, t, skip_layers=list(skip)).sample.numpy()
    ops = get_backend("numpy", dtype="float64")
    steered = SteeredNetwork(transformer, STEERABLE)
    got = predict(
        ops, theirs, config_of(kind), draw(3, 4), steered, steering=(LayersLeftOut(skip),)
    )
    assert np.abs(got - want).max() < 1e-12 * np.abs(want).max()
    whole = predict(ops, theirs, config_of(kind), draw(3, 4))
    assert np.abs(got - whole).max() > 1e-3 * np.abs(want).max()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_other_types_of_numbers(dtype):
    theirs = in_float64(make_transformer("3.5 medium"))
    config = config_of("3.5 medium")
    want = predict(get_backend("numpy", dtype="float64"), theirs, config, draw(4, 4))
    ops = get_backend("torch", dtype=dtype)
    got = predict(ops, theirs, config, draw(4, 4))
    least = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}[dtype]
    assert np.abs(got - want).max() < least * np.abs(want).max()


def test_an_image_may_not_be_larger_than_the_table_of_positions():
    theirs = make_transformer("3 medium")
    with pytest.raises(UsageError, match="8 patches on a side, the model knows 7 positions"):
        predict(get_backend("numpy"), theirs, config_of("3 medium"), draw(2, 8))


def test_the_last_residual_of_sd3_is_not_added_in_diffusers():
    """With a residual for each block, the one of the last changes nothing; here neither."""
    theirs = in_float64(make_transformer("3.5 medium"))
    config = config_of("3.5 medium")
    arrays = draw(3, 4)
    x, t, states, pooled = map(torch.tensor, arrays)
    residuals = np.random.default_rng(1).standard_normal((config.num_layers, 2, 12, config.width))
    ops = get_backend("numpy", dtype="float64")

    def outputs(changed):
        added = residuals.copy()
        if changed is not None:
            added[changed] += 100.0
        with torch.no_grad():
            want = theirs(
                x, states, pooled, t, block_controlnet_hidden_states=list(torch.tensor(added))
            ).sample.numpy()
        control = BlockResiduals(tuple(added))
        return want, predict(ops, theirs, config, arrays, control=control)

    plain = outputs(None)
    assert np.abs(plain[0] - plain[1]).max() < 1e-12 * np.abs(plain[0]).max()
    for block in range(config.num_layers):
        last = block == config.num_layers - 1
        for before, after in zip(plain, outputs(block), strict=True):
            assert np.array_equal(before, after) == last
