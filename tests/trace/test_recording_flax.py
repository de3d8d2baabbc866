"""A port to Flax is recorded and judged."""

from __future__ import annotations

import numpy as np
import pytest
import text_ports as ports

import ldmref
from ldmref.errors import UsageError
from ldmref.trace.left_out import LEFT_OUT

nnx = pytest.importorskip("flax.nnx")
jax = pytest.importorskip("jax")
jnp = jax.numpy
RNGS = nnx.Rngs(0)


def quick_gelu(x):
    return x * jax.nn.sigmoid(1.702 * x)


class FlaxBlock(nnx.Module):
    def __init__(self, eps, act):
        width, hidden = ports.WIDTH, ports.HIDDEN
        self.norm1 = nnx.LayerNorm(width, epsilon=eps, use_fast_variance=False, rngs=RNGS)
        self.norm2 = nnx.LayerNorm(width, epsilon=eps, use_fast_variance=False, rngs=RNGS)
        self.qkv = nnx.Linear(width, 3 * width, rngs=RNGS)
        self.out = nnx.Linear(width, width, rngs=RNGS)
        self.fc1 = nnx.Linear(width, hidden, rngs=RNGS)
        self.fc2 = nnx.Linear(hidden, width, rngs=RNGS)
        self.act = act

    def __call__(self, x):
        n, length, width = x.shape
        joined = jnp.split(self.qkv(self.norm1(x)), 3, axis=-1)
        q, k, v = (part.reshape(n, length, ports.HEADS, -1) for part in joined)
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.reshape(n, length, width))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class FlaxEncoder(nnx.Module):
    def __init__(self, eps=ports.EPS, act=quick_gelu):
        self.tokens = nnx.Embed(ports.WORDS, ports.WIDTH, rngs=RNGS)
        self.positions = nnx.Param(jnp.zeros((ports.LENGTH, ports.WIDTH)))
        self.blocks = nnx.List([FlaxBlock(eps, act), FlaxBlock(ports.EPS, quick_gelu)])
        self.norm = nnx.LayerNorm(
            ports.WIDTH, epsilon=ports.EPS, use_fast_variance=False, rngs=RNGS
        )

    def __call__(self, input_ids):
        x = self.tokens(input_ids) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


@pytest.fixture(scope="module")
def model():
    return ports.make_model()


def make(model, **options):
    port = FlaxEncoder(**options)
    weights = ports.read_weights(model)
    for path, module in nnx.iter_modules(port):
        name = ".".join(map(str, path))
        if isinstance(module, nnx.Linear):
            module.kernel.set_value(jnp.asarray(weights[f"{name}.weight"].T))
        elif isinstance(module, nnx.LayerNorm):
            module.scale.set_value(jnp.asarray(weights[f"{name}.weight"]))
        if hasattr(module, "bias"):
            module.bias.set_value(jnp.asarray(weights[f"{name}.bias"]))
    port.tokens.embedding.set_value(jnp.asarray(weights["tokens.weight"]))
    port.positions.set_value(jnp.asarray(weights["positions"]))
    return port


def run_port(port):
    return np.asarray(port(ports.IDS))


def test_a_right_port_is_equal(model):
    port = make(model)
    expected = run_port(port)
    report, trace, y = ports.judge(model, port, run_port)
    assert np.array_equal(y, expected)
    assert (report.verdict, report.faults) == ("equal", [])
    assert LEFT_OUT not in trace.manifest and trace.manifest["dtype"] == "float32"


def test_wrong_layers_are_named_with_their_causes(model):
    report, _, _ = ports.judge(model, make(model, eps=1e-3), run_port)
    layer = "text_model.encoder.layers.0"
    assert ports.causes(report) == {
        f"{layer}.layer_norm1": "eps 0.001 instead of 1e-05",
        f"{layer}.layer_norm2": "eps 0.001 instead of 1e-05",
    }
    exact = make(model, act=lambda x: jax.nn.gelu(x, approximate=False))
    (row,) = ports.judge(model, exact, run_port)[0].faults
    assert row.layer == f"{layer}.mlp.fc2" and "GELU" in row.cause


def test_what_is_compiled_has_no_values_and_says_so(model):
    port = make(model)
    with pytest.warns(UserWarning, match="another one than the recorded was called"):
        with ldmref.recording(port, call="text_encoder"):
            nnx.jit(lambda port, ids: port(ids))(port, ports.IDS)
    with pytest.warns(UserWarning, match="no values within jax.jit"):
        with ldmref.recording(port, call="text_encoder"):
            jax.make_jaxpr(lambda ids: port(ids))(ports.IDS)


def test_modules_of_linen_are_refused():
    linen = pytest.importorskip("flax.linen")
    with pytest.raises(UsageError, match=r"a module of flax\.linen") as caught:
        with ldmref.recording(linen.Dense(3)):
            raise AssertionError("the block is not entered")
    assert "nnx" in caught.value.hint


def test_bfloat16_of_jax_is_kept():
    network = nnx.Linear(4, 4, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=RNGS)
    with ldmref.recording({"first": network}, call="net") as run:
        y = network(jnp.ones((2, 4), jnp.bfloat16))
    assert run.trace.kinds["net.000/first/output"] == "BF16"
    found = run.trace.tensors["net.000/first/output"]
    assert np.array_equal(found, np.asarray(y, np.float32))


def test_the_example_of_the_page_on_traces(capsys):
    ports.run_example("from flax", capsys)
