"""The names of layers, and a backend that sees every one of them."""

import numpy as np
import pytest

from ldmref import random_model
from ldmref.backends import get_backend
from ldmref.backends.bounds import error_bound, layer_bound
from ldmref.backends.named import NamedBackend
from ldmref.models.params import flatten


class Collector(NamedBackend):
    """Collects the calls of layers; `replace` gives a layer another output."""

    def __init__(self, inner, replace=None, **options):
        super().__init__(inner, **options)
        self.calls = []
        self.replace = replace or {}

    def visit(self, call):
        y = super().visit(call)
        self.calls.append(call)
        return self.replace.get(call.name, lambda value: value)(y)


@pytest.fixture(scope="module")
def model():
    return random_model("tiny")


def run(model, backend):
    x = np.linspace(-1, 1, 2 * 4 * 8 * 8, dtype=np.float32).reshape(2, 4, 8, 8)
    context = np.linspace(-1, 1, 2 * 16 * 32, dtype=np.float32).reshape(2, 16, 32)
    return model.with_backend(backend).unet(x, np.array([5, 5]), context)


def test_observing_changes_nothing(model):
    y = run(model, Collector(model.backend, decompose=False))
    assert np.array_equal(y, run(model, model.backend))


def test_parts_of_fused_operations_are_as_accurate(model):
    exact = run(random_model("tiny", dtype="float64"), get_backend("numpy", dtype="float64"))
    whole = np.abs(run(model, model.backend) - exact).max()
    parts = np.abs(run(model, Collector(model.backend, decompose=True)) - exact).max()
    assert parts < 4 * whole and whole < 1e-4


def test_observers_do_not_observe_each_other(model):
    with pytest.raises(TypeError, match="Collector cannot observe Collector"):
        Collector(Collector(model.backend))


def test_every_layer_with_parameters_is_seen_once(model):
    backend = Collector(model.backend)
    run(model, backend)
    names = [call.name for call in backend.calls]
    assert len(set(names)) == len(names)
    leaves = {name.rpartition(".")[0] for name in flatten(model.params["unet"])}
    assert leaves <= set(names)
    assert {"time_proj", "mid_block.resnets.0.silu~2", "mid_block.resnets.0.add"} <= set(names)


def test_a_layer_computes_from_other_inputs(model):
    backend = Collector(model.backend)
    run(model, backend)
    call = next(c for c in backend.calls if c.name == "mid_block.resnets.0")
    assert call.composite and set(call.inputs) == {"input", "emb"}
    x = call.inputs["input"]
    halves = {"input": 0.5 * x, "emb": call.inputs["emb"]}
    assert not np.allclose(call.compute(halves), call.compute(call.inputs))


def test_what_visit_returns_is_used(model):
    silent = Collector(model.backend, {"conv_out": lambda y: 0.0 * y})
    assert np.all(run(model, silent) == 0.0)


def test_text_and_autoencoder_are_named():
    model = random_model("tiny")
    backend = Collector(model.backend)
    for name in ("text_encoder", "vae"):
        backend.name_parameters(model.params[name])
    other = model.with_backend(backend)
    other.encode_text(["a cat"])
    other.decode(other.encode_image(np.zeros((1, 3, 16, 16), np.float32)))
    names = {call.name for call in backend.calls}
    assert "text_model.encoder.layers.0.self_attn" in names
    assert "text_model.encoder.layers.0.mlp" in names
    assert "decoder.mid_block.attentions.0" in names


def test_the_bias_of_attention_is_an_input():
    """Not a parameter, as that of a linear layer: traces record it, and faults change it."""
    ops = Collector(get_backend("numpy", dtype="float64"))
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 3))
    bias = np.arange(4.0).reshape(1, 1, 1, 4)
    got = ops.attention(x, x, x, bias=bias, scale=1.0)
    (call,) = ops.calls
    assert [*call.inputs] == ["input", "k", "v", "bias"] and call.parameters == {}
    assert call.attributes == {"scale": 1.0}
    assert np.array_equal(got, ops.inner.attention(x, x, x, bias=bias, scale=1.0))
    without = call.compute({**call.inputs, "bias": 0.0 * bias})
    assert np.array_equal(without, ops.inner.attention(x, x, x, scale=1.0))
    bound = layer_bound(call, call.inputs, {}, "float64")
    want = error_bound("attention", (x, x, x), {"bias": bias, "scale": 1.0}, "float64")
    assert np.array_equal(bound, want)


def test_attention_without_a_bias_has_no_more_attributes():
    ops = Collector(get_backend("numpy"))
    x = np.ones((1, 1, 2, 3), np.float32)
    ops.attention(x, x, x, causal=True, bias=None)
    (call,) = ops.calls
    assert [*call.inputs] == ["input", "k", "v"] and call.attributes == {"causal": True}
