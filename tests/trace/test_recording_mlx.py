"""A port to MLX is recorded and judged; MLX runs on processors too: `pip install mlx[cpu]`."""

from __future__ import annotations

import numpy as np
import pytest
import text_ports as ports

import ldmref
from ldmref.trace.left_out import LEFT_OUT

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")


class MlxBlock(nn.Module):
    def __init__(self, eps, act):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(ports.WIDTH, eps) for _ in range(2))
        self.qkv = nn.Linear(ports.WIDTH, 3 * ports.WIDTH)
        self.out = nn.Linear(ports.WIDTH, ports.WIDTH)
        self.fc1 = nn.Linear(ports.WIDTH, ports.HIDDEN)
        self.fc2 = nn.Linear(ports.HIDDEN, ports.WIDTH)
        self.act = act

    def __call__(self, x):
        n, length, width = x.shape
        shape = (n, length, ports.HEADS, width // ports.HEADS)
        joined = mx.split(self.qkv(self.norm1(x)), 3, axis=-1)
        q, k, v = (part.reshape(shape).transpose(0, 2, 1, 3) for part in joined)
        mask = nn.MultiHeadAttention.create_additive_causal_mask(length)
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=shape[-1] ** -0.5, mask=mask)
        x = x + self.out(y.transpose(0, 2, 1, 3).reshape(n, length, width))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class MlxEncoder(nn.Module):
    def __init__(self, eps=ports.EPS, act=None):
        super().__init__()
        act = nn.GELU("fast") if act is None else act  # x sigmoid(1.702 x)
        self.tokens = nn.Embedding(ports.WORDS, ports.WIDTH)
        self.positions = mx.zeros((ports.LENGTH, ports.WIDTH))
        self.blocks = [MlxBlock(eps, act), MlxBlock(ports.EPS, nn.GELU("fast"))]
        self.norm = nn.LayerNorm(ports.WIDTH, ports.EPS)

    def __call__(self, input_ids):
        x = self.tokens(input_ids) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


@pytest.fixture(scope="module")
def model():
    return ports.make_model()


def make(model, **options):
    port = MlxEncoder(**options)
    weights = ports.read_weights(model)
    port.load_weights([(name, mx.array(x)) for name, x in weights.items()])
    return port


def run_port(port):
    return np.array(port(mx.array(ports.IDS)))


def test_a_right_port_is_equal(model):
    port = make(model)
    expected = run_port(port)
    report, trace, y = ports.judge(model, port, run_port)
    assert np.array_equal(y, expected)
    assert (report.verdict, report.faults) == ("equal", [])
    assert LEFT_OUT not in trace.manifest and trace.manifest["dtype"] == "float32"
    assert trace.find("text_encoder.000", "text_model.encoder.layers.1.self_attn.k_proj")


def test_wrong_layers_are_named_with_their_causes(model):
    report, _, _ = ports.judge(model, make(model, eps=1e-3), run_port)
    layer = "text_model.encoder.layers.0"
    assert ports.causes(report) == {
        f"{layer}.layer_norm1": "eps 0.001 instead of 1e-05",
        f"{layer}.layer_norm2": "eps 0.001 instead of 1e-05",
    }
    report, _, _ = ports.judge(model, make(model, act=nn.GELU()), run_port)
    (row,) = report.faults
    assert row.layer == f"{layer}.mlp.quick_gelu" and "GELU" in row.cause


def test_what_is_compiled_has_no_values_and_says_so(model):
    port = make(model)
    compiled = mx.compile(port)
    with pytest.warns(UserWarning, match="no values within mx.compile"):
        with ldmref.recording(port, call="text_encoder"):
            compiled(mx.array(ports.IDS))
    with pytest.warns(UserWarning, match="nothing was recorded"):
        with ldmref.recording(port, call="text_encoder"):
            compiled(mx.array(ports.IDS))


def test_narrow_and_changed_arrays_of_mlx():
    class Grows(nn.Module):
        def __call__(self, x):
            x += 1
            return x

    network = nn.Sequential(Grows(), nn.Linear(4, 4))
    network.set_dtype(mx.bfloat16)
    with ldmref.recording(network) as run:
        network(mx.ones((2, 4), mx.bfloat16))
    assert run.trace.manifest["dtype"] == "bfloat16"
    tensors = run.trace.tensors
    assert np.array_equal(tensors["unet.000/layers.0/input"], np.ones((2, 4)))
    assert np.array_equal(tensors["unet.000/layers.0/output"], np.full((2, 4), 2.0))
    assert run.trace.kinds["unet.000/layers.1/output"] == "BF16"


def test_the_example_of_the_page_on_traces(capsys):
    ports.run_example("import mlx", capsys)
