"""A layer computed with a known fault is named with that fault; other layers are not named."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy_ports import layers_of, make_model, run_port

from ldmref.locate import diff_traces
from ldmref.locate.faults import FAULTS
from ldmref.locate.faults.attention import other_bias
from ldmref.locate.faults.table import BETWEEN, BLOCK
from ldmref.trace import build_trace

MID = "mid_block.attentions.0.transformer_blocks.0"


@pytest.fixture(scope="module")
def model():
    return make_model("tiny")


@pytest.fixture(scope="module")
def flux_model():
    return make_model("flux-tiny")


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
    "divide_by_rms": ("transformer", "transformer_blocks.0.attn.norm_q"),
    "tanh_gelu": ("transformer", "transformer_blocks.0.ff.net.0.gelu_tanh"),
    "rotate": ("transformer", "single_transformer_blocks.0.attn.rotate"),
}
BIASED = ("text_encoder_2", "encoder.block.0.layer.0.SelfAttention.attention")
OF_FLUX = ("transformer", "text_encoder_2")


def find_place(operation, fault):
    return BIASED if fault.variants is other_bias else PLACES[operation]


def place_of(model, operation, place):
    network, name = place
    layers = layers_of(model, network)
    if name in layers and layers[name].kind == operation:
        return network, name
    return network, next(n for n, call in layers.items() if call.kind == operation)


@pytest.mark.parametrize(
    ("operation", "fault"),
    [(name, fault) for fault in FAULTS for name in fault.applies_to if name in PLACES],
    ids=lambda x: x if isinstance(x, str) else x.variants.__name__,
)
def test_each_known_fault_is_named(model, flux_model, operation, fault):
    place = find_place(operation, fault)
    model = flux_model if place[0] in OF_FLUX else model
    network, name = place_of(model, operation, place)
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


def test_most_known_faults_can_be_made_here(model, flux_model):
    """Otherwise the test above would pass without testing anything.

    Faults of functions of torch, which no network of ldmref calls, have tests in
    `test_tensor_faults.py`.
    """
    made: set[str] = set()
    tiny = model
    ours = [fault for fault in FAULTS if fault.applies_to[0] in PLACES]
    others = [fault for fault in FAULTS if fault not in ours]
    elsewhere = (
        BETWEEN,
        BLOCK,
        ("divide_by_deviation",),
        ("turn_pairs",),
    )  # of text, and of other families
    others = [fault for fault in others if fault.applies_to not in elsewhere]
    assert {fault.variants.__module__ for fault in others} == {"ldmref.locate.faults.tensors"}
    for fault in ours:
        place = find_place(fault.applies_to[0], fault)
        model = flux_model if place[0] in OF_FLUX else tiny
        network, name = place_of(model, fault.applies_to[0], place)
        call = layers_of(model, network)[name]
        right = call.compute(call.inputs)
        for variant in fault.variants(call):
            wrong = variant.change(call, {**call.parameters, **call.inputs})
            if np.shape(wrong) == np.shape(right) and np.abs(wrong - right).max() > 1e-3:
                made.add(fault.variants.__name__)
                break
    own = {"eps_outside", "other_stride", "other_masks", "tiled_heads"}  # inputs of their own
    assert {fault.variants.__name__ for fault in ours} - made <= own


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
    from ldmref.locate.recorded.precision import round_to

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
