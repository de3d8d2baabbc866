"""Weights that are not the model's: named at each layer, and in one line where all are others."""

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.locate import diff_traces
from ldmref.locate.report import table
from ldmref.models.params import flatten, unflatten

OTHERS = "has other weights than the model"
# A layer with more rows than columns of each kind, in a small model.
LAYERS = [
    ("flux-tiny", "transformer", "transformer_blocks.0.attn.to_q"),  # linear
    ("flux-tiny", "transformer", "transformer_blocks.1.attn.norm_k"),  # RMS norm
    ("tiny", "unet", "down_blocks.0.resnets.0.conv1"),  # convolution
    ("tiny", "unet", "down_blocks.0.attentions.0.transformer_blocks.0.norm2"),  # layer norm
]


def judge(name, network, change):
    """Return the report of a run with changed parameters, `change(name, array)`."""
    model = ldmref.random_model(name, seed=0)
    params = {key: change(key, x) for key, x in flatten(model.params[network]).items()}
    port = model.with_params({**model.params, network: unflatten(params)}, model.backend)
    with ldmref.recording(port) as run:
        modes.txt2img(port, "red heart", steps=1, seed=0, width=32, height=32)
    return diff_traces(run.trace, model)


def shuffled(x):
    return np.random.default_rng(0).permutation(x.ravel()).reshape(x.shape).astype(x.dtype)


def of_layer(layer, change):
    """Return a change of the weight of one layer."""
    return lambda key, x: change(x) if key == f"{layer}.weight" else x


def as_others(x):
    """Return a weight that is another one, also of a norm, whose numbers are near 1."""
    return shuffled(x) if x.ndim > 1 else np.linspace(-2.0, 2.0, x.size).astype(x.dtype)


def a_little(x):
    """Return a weight that is rounded or merged: 1 % from the model's."""
    change = np.random.default_rng(1).standard_normal(x.shape)
    return (x + 0.01 * np.sqrt(np.mean(x**2)) * change).astype(x.dtype)


@pytest.mark.parametrize(("name", "network", "layer"), LAYERS)
def test_other_weights_of_a_layer_are_named(name, network, layer):
    (row,) = judge(name, network, of_layer(layer, as_others)).faults
    assert (row.layer, row.cause) == (layer, OTHERS)


@pytest.mark.parametrize(("name", "network", "layer"), LAYERS)
def test_changed_weights_are_named_with_their_distance(name, network, layer):
    (row,) = judge(name, network, of_layer(layer, a_little)).faults
    assert row.layer == layer
    assert row.cause.startswith("has weights that change its output by ")
    assert 0.5 < float(row.cause.split()[-2]) < 1.5  # percent


@pytest.mark.parametrize(("name", "network"), [("flux-tiny", "transformer"), ("tiny", "unet")])
def test_a_network_that_was_not_loaded_is_one_line(name, network):
    report = judge(name, network, lambda key, x: shuffled(x))
    assert len(report.faults) > 40
    _, line = table(report)
    assert f"layers of {network}: were its weights loaded?" in line[-1]
    assert len(table(report, everything=True)) > 40


def test_two_layers_with_other_weights_are_two_lines():
    def change(key, x):
        return shuffled(x) if key.endswith("blocks.0.attn.to_q.weight") else x

    report = judge("flux-tiny", "transformer", change)
    assert [row.cause for row in report.faults] == [OTHERS, OTHERS]
    assert len(table(report)) == 3


@pytest.mark.parametrize("change", [lambda x: x**3, np.ones_like], ids=["cubed", "ones"])
def test_a_layer_that_computes_something_else_has_no_other_weights(change):
    model = ldmref.random_model("flux-tiny", seed=0)
    with ldmref.recording(model) as run:
        modes.txt2img(model, "red heart", steps=1, seed=0, width=32, height=32)
    name = "transformer.000/transformer_blocks.0.attn.to_q//output"
    name = next(key for key in run.trace.tensors if key.startswith(name[:-8]) and "output" in key)
    changed = {**run.trace.tensors, name: change(np.asarray(run.trace.tensors[name]))}
    report = diff_traces(ldmref.trace.Trace(changed, run.trace.entries, run.trace.manifest), model)
    rows = [row for row in report.faults if row.layer.endswith("blocks.0.attn.to_q")]
    assert rows and not any("weights" in row.cause for row in rows)
