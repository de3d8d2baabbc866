"""Every layer and block of every network is judged alone, right and wrong, in its own shape."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from numpy_ports import make_model, run_port

from ldmref.families.flux import FluxConfig
from ldmref.locate import diff_traces
from ldmref.locate.replay.definition import REMEDY
from ldmref.models.transformer_layers import find_angles
from ldmref.trace import build_trace

NETWORKS = [
    ("sd3-tiny", "transformer"),
    ("flux-tiny", "transformer"),
    ("sd3-tiny", "text_encoder"),
    ("sd3-tiny", "text_encoder_2"),
    ("sd3-tiny", "text_encoder_3"),
    ("sd3-tiny", "vae.decode"),
    ("sd3-tiny", "encode"),
]
BLOCK = "transformer.000/transformer_blocks.0"
MODELS: dict = {}


def model_of(name):
    if name not in MODELS:
        MODELS[name] = make_model(name)
    return MODELS[name]


def layers_of(name, network):
    """Return the tensors of each recorded layer of a port, by CALL/LAYER."""
    found = defaultdict(dict)
    for key, x in run_port(model_of(name), network=network).items():
        call, layer, _ = key.split("/")
        if layer:
            found[f"{call}/{layer}"][key] = x
    return found


def judge(name, tensors):
    return diff_traces(build_trace(tensors), model_of(name))


@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_every_layer_alone_is_equal(name, network):
    layers = layers_of(name, network)
    judged = {layer: judge(name, tensors) for layer, tensors in layers.items()}
    assert len(judged) > 30
    assert {layer for layer, report in judged.items() if not report.equal} == set()


@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_every_output_of_a_layer_alone_is_judged(name, network):
    rng = np.random.default_rng(0)
    kinds = {}  # a layer of each kind, those of several outputs first
    for layer, tensors in layers_of(name, network).items():
        outputs = [key for key in tensors if "/output" in key]
        kinds.setdefault((-len(outputs), layer.rpartition(".")[2]), (layer, tensors, outputs))
    for _, (layer, tensors, outputs) in sorted(kinds.items())[:4]:
        for key in outputs:
            x = tensors[key]
            wrong = (x + 0.3 * np.max(np.abs(x)) * rng.standard_normal(x.shape)).astype(x.dtype)
            report = judge(name, {**tensors, key: wrong})
            assert [row.name for row in report.faults] == [layer], key


def block_of(name, block):
    """Return what diffusers' hooks record of a block: with angles in place of positions."""
    tensors = {}
    for key, x in layers_of(name, "transformer")[block].items():
        if not key.endswith("input.positions"):
            tensors[key] = x
            continue
        config = model_of(name).config.denoiser
        assert isinstance(config, FluxConfig)
        angles = np.repeat(find_angles(x, config.axes_dims_rope), 2, axis=1)
        tensors[f"{block}/input.image_rotary_emb.0"] = np.cos(angles).astype(np.float32)
        tensors[f"{block}/input.image_rotary_emb.1"] = np.sin(angles).astype(np.float32)
    return tensors


def test_a_block_is_judged_by_its_recorded_angles():
    tensors = block_of("flux-tiny", BLOCK)
    assert not any("positions" in key for key in tensors)
    assert judge("flux-tiny", tensors).equal
    wrong = {**tensors, f"{BLOCK}/output.1": 1.1 * tensors[f"{BLOCK}/output.1"]}
    assert [row.note for row in judge("flux-tiny", wrong).faults] == ["its output 1"]


@pytest.mark.parametrize("changed", ["other-angles", "half-positions", "none"])
def test_a_block_whose_positions_are_not_known_is_not_judged(changed):
    tensors = block_of("flux-tiny", BLOCK)
    roles = [f"{BLOCK}/input.image_rotary_emb.{i}" for i in range(2)]
    if changed == "other-angles":
        tensors[roles[0]] = tensors[roles[0]] + np.float32(0.1)
    elif changed == "half-positions":
        angles = np.arctan2(tensors[roles[1]], tensors[roles[0]]) / 2.0
        tensors[roles[0]], tensors[roles[1]] = np.cos(angles), np.sin(angles)
    else:
        del tensors[roles[0]]
    report = judge("flux-tiny", tensors)
    assert not report.faults and not report.equal
    assert any("'positions' was not recorded" in row.note for row in report.rows)


def test_a_block_that_returns_one_stream_alone():
    """diffusers' last block of SD3 returns no text, so its only output is the image."""
    last = (
        f"transformer.000/transformer_blocks.{model_of('sd3-tiny').config.denoiser.num_layers - 1}"
    )
    tensors = layers_of("sd3-tiny", "transformer")[last]
    image = tensors.pop(f"{last}/output.1")
    del tensors[f"{last}/output.0"]
    assert judge("sd3-tiny", {**tensors, f"{last}/output": image}).equal
    wrong = judge("sd3-tiny", {**tensors, f"{last}/output": 2.0 * image})
    assert [row.cause for row in wrong.faults] == ["scaled by 2"]


def test_a_block_without_its_modulation_is_not_judged_and_says_why():
    tensors = layers_of("sd3-tiny", "transformer")[BLOCK]
    del tensors[f"{BLOCK}/input.emb"]
    report = judge("sd3-tiny", tensors)
    assert report.verdict == "nothing compared"
    assert [row.note for row in report.rows] == [f"its input 'emb' was not recorded; {REMEDY}"]


@pytest.mark.parametrize("side", ["input", "output"])
def test_one_tensor_alone_is_not_judged(side):
    name = f"{BLOCK}.ff.net.2"
    tensors = layers_of("sd3-tiny", "transformer")[name]
    report = judge("sd3-tiny", {f"{name}/{side}": tensors[f"{name}/{side}"]})
    assert report.verdict == "nothing compared"
    assert "name of this network" not in str([row.note for row in report.rows])


def test_only_a_layer_of_another_network_has_no_name_here():
    x = np.ones((1, 2, 3), np.float32)
    report = judge(
        "sd3-tiny", {"transformer.000/conv_in/input": x, "transformer.000/conv_in/output": x}
    )
    assert "none of its layers has a name of this network" in report.rows[0].note
