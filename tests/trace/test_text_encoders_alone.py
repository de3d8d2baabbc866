"""A text encoder of transformers that is recorded by itself has the names of ldmref's layers."""

import pytest

import ldmref
from ldmref.locate import diff_modules
from ldmref.ports.network_port import list_text_encoder_ports

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = torch.arange(14).reshape(2, 7)


def make(scale=1.0):
    torch.manual_seed(0)
    sizes = SIZES | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
    encoder = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes)).eval()
    encoder.model.layers[1].self_attn.scaling *= scale
    return encoder


def record(encoder, names=None):
    with ldmref.recording(encoder, call="text_encoder", names=names) as run:
        encoder(IDS)
    return run.trace


def test_layers_have_the_names_of_the_kind_of_encoder():
    layers = {entry.layer for entry in record(make()).entries}
    assert {"layers.0.self_attn.q_proj", "norm", "embed_tokens"} <= layers
    assert not any(layer.startswith("model.") for layer in layers)
    assert any("Qwen3ForCausalLM" in port.classes for port in list_text_encoder_ports())


def test_it_is_judged_by_its_module():
    report = diff_modules(record(make()), make())
    assert report.verdict == "equal", report.gaps
    (row,) = diff_modules(record(make(8**0.5)), make()).faults
    assert row.layer == "layers.1.self_attn.attention" and "the scale" in row.cause


def test_names_that_are_given_are_those_of_the_modules():
    run = record(make(), names={"model.layers.*.mlp": "layers.*.ff"})
    layers = {entry.layer for entry in run.entries}
    assert {"layers.0.ff", "layers.1.ff"} <= layers
