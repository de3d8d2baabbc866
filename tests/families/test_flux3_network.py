"""The transformer of FLUX.3 against diffusers' Flux3Transformer2DModel, in float64."""

from __future__ import annotations

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.families.flux3 import network
from ldmref.families.flux3.config import Flux3Config
from ldmref.families.flux3.network import transformer, transformer_spec
from ldmref.families.flux3.positions import place_references
from ldmref.models import flatten, unflatten

pytest.importorskip("diffusers")
import torch
from family_tools import compile_network
from flux3_pipelines import join_cells, make_transformer, transformer_in_double, with_positions

SMALL = dict(
    in_channels=8,
    num_layers=2,
    num_single_layers=3,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=24,
    timestep_channels=16,
    axes_dims_rope=(4, 4, 4, 4),
)


@pytest.fixture(scope="module", params=[False, True], ids=["base", "distilled"])
def theirs(request):
    """Return a small transformer in float64."""
    with transformer_in_double():
        yield make_transformer(flow_map=request.param, cond_in_channels=8, **SMALL).double()


def configure(theirs):
    return Flux3Config(out_channels=8, flow_map=theirs.config.flow_map, **SMALL)


def draw(theirs, height=6, width=4, lengths=(5,), references=()):
    """Return inputs of our network, with texts of these lengths and references of these sizes."""
    generator = np.random.default_rng(0)
    n = len(lengths)
    arrays = {
        "x": generator.standard_normal((n, 8, height, width)),
        "t": generator.uniform(0, 1000, n),
        "context": generator.standard_normal((n, max(lengths), 24)),
    }
    if len({*lengths}) > 1:
        kept = np.arange(max(lengths))[None] < np.asarray(lengths)[:, None]
        arrays["mask"] = kept.astype(np.int64)
    if theirs.config.flow_map:
        arrays["t_next"] = arrays["t"] * generator.uniform(0, 1, n)
    if references:
        count = sum(h * w for h, w in references)
        arrays["reference_tokens"] = generator.standard_normal((n, count, 8))
        arrays["reference_places"] = np.repeat(place_references(references), n, axis=0)
    return arrays


def compute(theirs, arrays, backend="numpy"):
    """Compute our prediction in float64."""
    ops = get_backend(backend, dtype="float64")
    state = {name: ops.asarray(value.numpy()) for name, value in theirs.state_dict().items()}
    placed = {name: ops.asarray(array) for name, array in arrays.items()}
    return ops.to_numpy(transformer(ops, unflatten(state), configure(theirs), **placed))


def predict(theirs, arrays):
    """Return what diffusers' network computes."""
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    with torch.no_grad():
        found = theirs(**with_positions(tensors)).sample
    return join_cells(found, arrays["x"].shape[2:]).numpy()


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("references", [(), ((4, 4),), ((2, 6), (4, 2))])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (6, 2), (2, 8)])
def test_the_transformer_is_that_of_diffusers(theirs, backend, references, height, width):
    arrays = draw(theirs, height, width, (7, 7), references)
    want = predict(theirs, arrays)
    got = compute(theirs, arrays, backend)
    assert np.abs(got - want).max() < 1e-10 * np.abs(want).max()


def test_each_text_of_a_batch_is_as_alone(theirs):
    """What a mask leaves out is not read, neither by text nor by image nor by references."""
    lengths = (5, 9, 2)
    arrays = draw(theirs, lengths=lengths, references=((2, 4),))
    together = compute(theirs, arrays)
    for i, length in enumerate(lengths):
        row = {name: array[i : i + 1] for name, array in arrays.items() if name != "mask"}
        row["context"] = row["context"][:, :length]
        alone = predict(theirs, row)
        assert np.abs(alone - together[i : i + 1]).max() < 1e-10 * np.abs(alone).max()


@pytest.mark.parametrize("name", ["context", "t", "t_next", "reference_tokens", "reference_places"])
def test_every_input_is_read(theirs, name):
    arrays = draw(theirs, references=((2, 4), (4, 2)))
    if name not in arrays:
        pytest.skip("the base model has one time")
    first = compute(theirs, arrays)
    other = compute(theirs, arrays | {name: 0.5 * arrays[name] - 0.1})
    assert np.abs(first - other).max() > 1e-6 * np.abs(first).max()


def test_shapes_are_those_of_diffusers(theirs):
    shapes = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    assert flatten(transformer_spec(configure(theirs))) == shapes


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_graph_takes_every_size(theirs, name):
    names = tuple(draw(theirs, lengths=(5, 9), references=((2, 4),)))

    def graph(ops, p, *arrays):
        return transformer(ops, p, configure(theirs), **dict(zip(names, arrays, strict=True)))

    ops, compiled = compile_network(name, theirs, graph)
    for lengths, height, width, sizes in (((5, 9), 4, 4, ((2, 4),)), ((3, 2), 6, 2, ((6, 4),))):
        arrays = draw(theirs, height, width, lengths, sizes)
        want = compute(theirs, arrays)
        floats = {
            key: array if key == "mask" else array.astype(np.float32)
            for key, array in arrays.items()
        }
        got = ops.to_numpy(compiled(*floats.values()))
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


def test_the_order_of_modes_changes_nothing(theirs, monkeypatch):
    """The makers join image, references and text in this order."""
    arrays = draw(theirs, lengths=(5, 9), references=((2, 4),))
    want = compute(theirs, arrays)
    attend = network.attend

    def reordered(ops, p, x, cos, sin, score_bias, num_heads):
        if score_bias is None or x.shape[1] == score_bias.shape[-1] == arrays["mask"].shape[1]:
            return attend(ops, p, x, cos, sin, score_bias, num_heads)
        length = arrays["mask"].shape[1]
        x, cos, sin = (np.roll(part, -length, axis=-2) for part in (x, cos, sin))
        bias = np.roll(score_bias, -length, axis=-1)
        return np.roll(attend(ops, p, x, cos, sin, bias, num_heads), length, axis=-2)

    monkeypatch.setattr(network, "attend", reordered)
    got = compute(theirs, arrays)
    assert not np.array_equal(got, want) and np.abs(got - want).max() < 1e-12 * np.abs(want).max()
