"""A port to Keras 3 is recorded and judged, on the backend PyTorch."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import text_ports as ports

import ldmref
from ldmref.errors import UsageError
from ldmref.trace.left_out import LEFT_OUT

pytest.importorskip("torch")
if "keras" not in sys.modules:
    os.environ.setdefault("KERAS_BACKEND", "torch")  # without one, Keras imports TensorFlow
keras = pytest.importorskip("keras")
layers, ops = keras.layers, keras.ops


def quick_gelu(x):
    return x * ops.sigmoid(1.702 * x)


class KerasBlock(layers.Layer):
    def __init__(self, eps, act):
        super().__init__()
        self.norm1 = layers.LayerNormalization(epsilon=eps)
        self.norm2 = layers.LayerNormalization(epsilon=eps)
        self.qkv = layers.Dense(3 * ports.WIDTH)
        self.out = layers.Dense(ports.WIDTH)
        self.fc1 = layers.Dense(ports.HIDDEN)
        self.act = layers.Activation(act)
        self.fc2 = layers.Dense(ports.WIDTH)

    def call(self, x):
        n, length, width = x.shape
        shape = (n, length, ports.HEADS, width // ports.HEADS)
        joined = ops.split(self.qkv(self.norm1(x)), 3, axis=-1)
        q, k, v = (ops.transpose(ops.reshape(part, shape), (0, 2, 1, 3)) for part in joined)
        scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * shape[-1] ** -0.5
        allowed = np.tri(length, dtype=bool)
        y = ops.matmul(ops.softmax(ops.where(allowed, scores, -1e9)), v)
        x = x + self.out(ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (n, length, width)))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class KerasEncoder(keras.Model):
    def __init__(self, eps=ports.EPS, act=quick_gelu):
        super().__init__()
        self.tokens = layers.Embedding(ports.WORDS, ports.WIDTH)
        self.positions = self.add_weight(shape=(ports.LENGTH, ports.WIDTH), name="positions")
        self.blocks = [KerasBlock(eps, act), KerasBlock(ports.EPS, quick_gelu)]
        self.norm = layers.LayerNormalization(epsilon=ports.EPS)

    def call(self, input_ids):
        x = self.tokens(input_ids) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


@pytest.fixture(scope="module")
def model():
    return ports.make_model()


def make(model, **options):
    port = KerasEncoder(**options)
    port(ports.IDS)  # makes the weights
    weights = ports.read_weights(model)
    parts = {"tokens": port.tokens, "norm": port.norm}
    for i, block in enumerate(port.blocks):
        names = ("norm1", "qkv", "out", "norm2", "fc1", "fc2")
        parts |= {f"blocks.{i}.{name}": getattr(block, name) for name in names}
    for name, layer in parts.items():
        weight = weights[f"{name}.weight"]
        bias = [weights[f"{name}.bias"]] if f"{name}.bias" in weights else []
        layer.set_weights([weight.T if isinstance(layer, layers.Dense) else weight, *bias])
    port.positions.assign(weights["positions"])
    return port


def run_port(port):
    return ops.convert_to_numpy(port(ports.IDS))


def test_a_right_port_is_equal(model):
    port = make(model)
    expected = run_port(port)
    report, trace, y = ports.judge(model, port, run_port)
    assert np.array_equal(y, expected)
    assert (report.verdict, report.faults) == ("equal", [])
    assert LEFT_OUT not in trace.manifest and trace.manifest["dtype"] == "float32"
    assert trace.manifest["program"] == "Keras"


def test_wrong_layers_are_named_with_their_causes(model):
    report, _, _ = ports.judge(model, make(model, eps=1e-3), run_port)
    layer = "text_model.encoder.layers.0"
    assert ports.causes(report) == {
        f"{layer}.layer_norm1": "eps 0.001 instead of 1e-05",
        f"{layer}.layer_norm2": "eps 0.001 instead of 1e-05",
    }
    report, _, _ = ports.judge(model, make(model, act="gelu"), run_port)
    (row,) = report.faults
    assert row.layer == f"{layer}.mlp.quick_gelu" and "GELU" in row.cause


def test_a_functional_model_is_recorded_by_the_names_of_its_layers():
    x = keras.Input((3,))
    y = layers.Dense(4, name="first")(x)
    network = keras.Model(x, layers.Dense(2, name="last")(layers.Activation("gelu")(y)))
    with ldmref.recording(network) as run:
        network(np.ones((2, 3), np.float32))
    found = [entry.layer for entry in run.trace.of_call("unet.000")]
    assert found[:2] == ["", "first"] and found[-1] == "last" and len(found) == 4


def test_layers_of_a_sequence_without_names_are_numbered():
    mlp = [layers.Dense(4), layers.Activation("gelu"), layers.Dense(3, name="last")]
    network = keras.Sequential([keras.Input((3,)), *mlp])
    with ldmref.recording(network) as run:
        network(np.ones((2, 3), np.float32))
    assert [entry.layer for entry in run.trace.of_call("unet.000")] == ["", "0", "1", "last"]


def test_an_activation_within_a_layer_is_a_layer_of_its_own():
    network = keras.Sequential([keras.Input((3,)), layers.Dense(4, "silu"), layers.Dense(2)])
    names = {"0": "proj", "0.activation": "act", "1": "last"}
    with ldmref.recording(network, names=names) as run:
        network(np.ones((2, 3), np.float32))
    found = {e.layer: [*e.inputs, *e.outputs] for e in run.trace.entries if e.layer}
    assert found == {"proj": ["input"], "act": ["output"], "last": ["input", "output"]}
    with ldmref.recording(network, names={"0": "proj"}) as run:
        network(np.ones((2, 3), np.float32))
    assert "unet.000/proj/output" not in run.trace.tensors


def test_a_layer_that_is_not_built_is_refused():
    network = keras.Sequential([layers.Dense(4)])
    with pytest.raises(UsageError, match="is not built") as caught, ldmref.recording(network):
        raise AssertionError("the block is not entered")
    assert "call it once" in caught.value.hint


def test_calls_that_only_build_a_layer_are_not_recorded():
    class Late(layers.Layer):
        def __init__(self):
            super().__init__()
            self.first = layers.Dense(4)

        def call(self, x):
            return self.first(x)

    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.late = Late()
            self.built = True

        def call(self, x):
            return self.late(x)

    network = Outer()
    assert not network.late.built
    with ldmref.recording(network) as run:
        network(np.ones((2, 3), np.float32))
    found = [entry.layer for entry in run.trace.of_call("unet.000")]
    assert found == ["", "late", "late.first"]
    assert LEFT_OUT not in run.trace.manifest


def test_the_example_of_the_page_on_traces(capsys):
    ports.run_example("import keras", capsys)
