"""A layer computed with a known fault is named with that fault; other layers are not named."""

from __future__ import annotations

import re

import numpy as np
import pytest

import ldmref
from ldmref.backends import get_backend
from ldmref.backends.named import NamedBackend
from ldmref.locate import diff_traces
from ldmref.locate.faults import FAULTS
from ldmref.models.autoencoder import encode
from ldmref.models.text import text_encoder
from ldmref.models.unet import unet
from ldmref.trace import build_trace, tensor_name

MID = "mid_block.attentions.0.transformer_blocks.0"


class Port(NamedBackend):
    """A float32 port that records its operations, and computes some of them wrongly."""

    def __init__(self, call, wrong=None):
        super().__init__(get_backend("numpy", dtype="float32"))
        self.call = call
        self.wrong = wrong or {}
        self.tensors = {}

    def visit(self, call):
        inputs = dict(call.inputs)
        change = self.wrong.get(call.name)
        if change is None:
            output = call.compute(inputs)
        else:
            output = change(call, {**call.parameters, **inputs})
        for role, x in inputs.items():
            self.tensors[tensor_name(self.call, call.name, "input", role)] = np.asarray(x)
        name = tensor_name(self.call, call.name, "output")
        self.tensors[name] = np.asarray(output, np.float32)
        return self.tensors[name]


@pytest.fixture(scope="module")
def model():
    """Return a model whose biases and norms are random, so leaving one out shows."""
    made = ldmref.random_model("tiny", seed=3)
    rng = np.random.default_rng(0)
    for network in made.params.values():
        shake(network, rng)
    return made


def shake(tree, rng):
    for key, value in tree.items():
        if isinstance(value, dict):
            shake(value, rng)
        elif np.ndim(value) == 1:
            tree[key] = (value + 0.3 * rng.standard_normal(value.shape)).astype(np.float32)


def run_port(model, wrong=None, network="unet"):
    rng = np.random.default_rng(1)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    if network == "unet":
        config, params, function = model.config.unet, model.params["unet"], unet
        call = "unet.000"
        width = config.cross_attention_dim
        arguments = {"x": normal(2, 4, 8, 8), "t": np.array([400.0, 400.0], np.float32)}
        arguments["context"] = normal(2, 5, width)
        roles = {"x": "sample", "t": "timestep", "context": "encoder_hidden_states"}
    elif network == "encode":
        config, params, function = model.config.vae, model.params["vae"], encode
        call = "vae.encode"
        arguments = {"image": normal(1, 3, 16, 16)}
        roles = {"image": "image"}
    else:
        config, params, function = model.config.text_encoder, model.params["text_encoder"], None
        function = text_encoder
        call = "text_encoder"
        arguments = {"ids": rng.integers(0, config.vocab_size, (2, 16))}
        roles = {"ids": "input_ids"}
    port = Port(call, wrong)
    port.name_parameters(params)
    with port.observed(function.__name__):
        output = function(port, params, config, **arguments)
    for name, x in arguments.items():
        port.tensors[f"{call}//input.{roles[name]}"] = x
    if not isinstance(output, tuple):
        port.tensors[f"{call}//output"] = output
    return port.tensors


def layers_of(model, network="unet"):
    """Return a LayerCall of each operation, by name."""
    found = {}

    class Looking(Port):
        def visit(self, call):
            if not call.composite:
                found[call.name] = call
            return super().visit(call)

    original = globals()["Port"]
    globals()["Port"] = Looking
    try:
        run_port(model, network=network)
    finally:
        globals()["Port"] = original
    return found


@pytest.mark.parametrize("network", ["unet", "encode", "text_encoder"])
def test_a_right_port_has_no_fault(model, network):
    report = diff_traces(build_trace(run_port(model, network=network)), model)
    assert report.equal, [(row.name, row.kind, row.error, row.allowed) for row in report.faults]
    assert report.counts()["equal"] > 20


PLACES = {
    "group_norm": ("unet", "down_blocks.0.resnets.0.norm2"),
    "layer_norm": ("unet", f"{MID}.norm3"),
    "silu": ("unet", "time_embedding.silu"),
    "gelu": ("unet", f"{MID}.ff.net.0.gelu"),
    "quick_gelu": ("text_encoder", "text_model.encoder.layers.0.mlp.quick_gelu"),
    "add": ("unet", "mid_block.resnets.0.add"),
    "linear": ("unet", f"{MID}.attn1.to_out.0"),
    "conv2d": ("unet", "mid_block.resnets.0.conv1"),
    "upsample2x": ("unet", "upsample2x"),
    "pad_bottom_right": ("encode", "pad_bottom_right"),
    "attention": ("text_encoder", "text_model.encoder.layers.0.self_attn.attention"),
    "timestep_embedding": ("unet", "time_proj"),
    "embedding": ("text_encoder", "text_model.embeddings.token_embedding"),
}


def place_of(model, operation):
    network, name = PLACES[operation]
    layers = layers_of(model, network)
    if name in layers and layers[name].kind == operation:
        return network, name
    return network, next(n for n, call in layers.items() if call.kind == operation)


@pytest.mark.parametrize(
    ("operation", "fault"),
    [(operation, fault) for fault in FAULTS for operation in fault.operations],
    ids=lambda x: x if isinstance(x, str) else x.variants.__name__,
)
def test_each_known_fault_is_named(model, operation, fault):
    network, name = place_of(model, operation)
    call = layers_of(model, network)[name]
    tried = 0
    for variant in fault.variants(call):
        right = call.compute(call.inputs)
        try:
            wrong = variant.change(call, {**call.parameters, **call.inputs})
        except (ValueError, IndexError):
            continue
        apart = np.shape(wrong) != np.shape(right) or np.abs(wrong - right).max() > 1e-3
        if not apart or np.shape(wrong) != np.shape(right):
            continue  # the fault changes nothing here, or no network could go on with it
        report = diff_traces(build_trace(run_port(model, {name: variant.change}, network)), model)
        named = {row.layer: row for row in report.faults}
        assert list(named) == [name], (variant.text, list(named))
        assert named[name].cause, variant.text
        assert named[name].explained < max(1e-4, named[name].error / 50)
        tried += 1
        if tried == 2:
            break


def test_most_known_faults_can_be_made_here(model):
    """Otherwise the test above would pass without testing anything."""
    made = 0
    for fault in FAULTS:
        network, name = place_of(model, fault.operations[0])
        call = layers_of(model, network)[name]
        right = call.compute(call.inputs)
        for variant in fault.variants(call):
            wrong = variant.change(call, {**call.parameters, **call.inputs})
            if np.shape(wrong) == np.shape(right) and np.abs(wrong - right).max() > 1e-3:
                made += 1
                break
    assert made >= len(FAULTS) - 2


def only(tensors, pattern):
    return {name: x for name, x in tensors.items() if re.search(pattern, name)}


@pytest.mark.parametrize(
    "pattern",
    ["norm2/", "//", r"resnets\.0/", "output", "down_blocks.0.resnets.0", "mid_block"],
)
def test_partial_traces_are_judged(model, pattern):
    report = diff_traces(build_trace(only(run_port(model), pattern)), model)
    assert not report.faults, [
        (row.name, row.kind, row.error, row.allowed) for row in report.faults
    ]
    assert report.counts()["equal"]


def test_a_single_layer_is_judged(model):
    name = "up_blocks.0.resnets.0.conv1"
    tensors = only(run_port(model), name)
    assert diff_traces(build_trace(tensors), model).counts() == {
        "equal": 1, "noisy": 0, "differs": 0, "not judged": 0,
    }  # fmt: skip
    wrong = {name: lambda call, x: call.compute({**x, "bias": None})}
    (row,) = diff_traces(build_trace(only(run_port(model, wrong), name)), model).faults
    assert row.cause == "bias is missing"


def test_a_fault_inside_an_unrecorded_part_is_found(model):
    """Only residual blocks are recorded; the part is run again with each fault."""
    layer = "mid_block.resnets.0"
    wrong = {f"{layer}.norm2": lambda call, x: call.compute({**x, "eps": 1e-2})}
    tensors = only(run_port(model, wrong), r"resnets\.\d/|//")
    (row,) = diff_traces(build_trace(tensors), model).faults
    assert row.layer == layer
    assert row.cause == f"eps 0.01 instead of 1e-05 in {layer}.norm2"


def test_outputs_alone_are_enough(model):
    wrong = {f"{MID}.norm3": lambda call, x: call.compute({**x, "eps": 1e-2})}
    tensors = only(run_port(model, wrong), r"/output|//")
    (row,) = diff_traces(build_trace(tensors), model).faults
    assert row.layer == f"{MID}.norm3"
    assert row.cause.startswith("eps 0.01")


def test_noise_of_bfloat16_is_not_a_fault(model):
    from ldmref.locate.precision import round_to

    tensors = {k: round_to(x, "bfloat16") for k, x in run_port(model).items()}
    report = diff_traces(build_trace(tensors), model, dtype="bfloat16")
    assert report.equal
    assert report.dtype == "bfloat16"


def test_arrays_in_another_order_are_recognised(model):
    tensors = run_port(model)
    name = "unet.000/conv_in/output"
    tensors[name] = tensors[name].transpose(0, 2, 3, 1)
    report = diff_traces(build_trace(tensors), model)
    assert report.equal
    (row,) = [row for row in report.rows if row.layer == "conv_in"]
    assert row.note == "equal after transpose 0,2,3,1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: 0 * x, "all zeros"),
        (lambda x: 0.5 * x, "scaled by 0.5"),
        (lambda x: np.roll(x, 1, axis=0), "batch halves swapped"),
        (lambda x: -x, "sign reversed"),
    ],
)
def test_relations_are_named(model, change, words):
    tensors = run_port(model)
    name = "unet.000/down_blocks.0.resnets.0.conv2/output"
    tensors[name] = change(tensors[name])
    rows = diff_traces(build_trace(tensors), model).faults
    assert words in {row.cause for row in rows if row.layer.endswith("resnets.0.conv2")}


def test_the_first_nan_is_named_and_nothing_after_it(model):
    name = "mid_block.resnets.0.conv1"
    tensors = run_port(model, {name: lambda call, x: np.nan * call.compute(x)})
    rows = diff_traces(build_trace(tensors), model).faults
    assert rows[0].layer == name
    assert rows[0].note.startswith("NaN at [0, 0, 0, 0]")
    assert len(rows) == 1


def test_identical_dumps_are_named(model):
    """Every layer of one shape was recorded as the last of them."""
    tensors = run_port(model)
    last = tensors["unet.000/mid_block.resnets.1.conv2/output"]
    for name in ("mid_block.resnets.0.conv1", "mid_block.resnets.0.conv2"):
        tensors[f"unet.000/{name}/output"] = last
    causes = {row.layer: row.cause for row in diff_traces(build_trace(tensors), model).faults}
    assert causes["mid_block.resnets.0.conv1"].startswith("identical dumps")


def test_inherited_differences_come_from_the_reference(model):
    wrong = {f"{MID}.norm3": lambda call, x: call.compute({**x, "eps": 1e-2})}
    reference = build_trace(run_port(model))
    report = diff_traces(build_trace(run_port(model, wrong)), model, reference)
    rows = {row.layer: row for row in report.rows if row.kind == "own"}
    assert rows["conv_in"].inherited == 0.0
    assert rows["conv_out"].verdict == "equal"
    assert rows["conv_out"].inherited > 1e-4
