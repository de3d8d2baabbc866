"""Layers with the names of their makers' file are judged as those with ldmref's names."""

from __future__ import annotations

import re

import numpy as np
import pytest
from test_conventions import judge, named, record

import ldmref
from ldmref import modes
from ldmref.io.compvis.keys import original_autoencoder_table

PREFIX = "model.diffusion_model."


def as_makers(model, tensors, prefix=""):
    """Return the arrays of a port that has the layers of the makers' file, joined as there."""
    table = model.family.files[0].table(model.config)
    found: dict = {}
    for own, entry in table.items():
        layer, _, parameter = own.rpartition(".")
        name = prefix + entry.name.removeprefix(PREFIX).rpartition(".")[0]
        if parameter != "weight":
            continue
        for key, x in tensors.items():
            call, owner, side = key.split("/")
            if owner == layer:
                begin = entry.third if entry.rows is None else entry.rows[0]
                x = np.roll(x, x.shape[-1] // 2, -1) if swapped(entry, side) else x
                found.setdefault(f"{call}/{name}/{side}", []).append((begin or 0, x))
    whole = {key: x for key, x in tensors.items() if "//" in key}
    for key, parts in found.items():
        ordered = [x for _, x in sorted(parts, key=lambda part: part[0])]
        outputs = key.rpartition("/")[2] == "output"
        whole[key] = np.concatenate(ordered, -1) if outputs else ordered[0]
    return whole


def swapped(entry, side):
    return entry.form == "swapped" and side == "output"


FAMILIES = {  # model -> a layer, and how the makers call it
    "flux-tiny": ("transformer_blocks.0.attn.to_k", "double_blocks.0.img_attn.qkv"),
    "flux2-tiny": ("single_transformer_blocks.0.attn.to_out", "single_blocks.0.linear2"),
    "sd3-tiny": ("transformer_blocks.0.attn.add_q_proj", "joint_blocks.0.context_block.attn.qkv"),
    "krea-2-tiny": ("transformer_blocks.0.attn.to_gate", "blocks.0.attn.gate"),
}


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("name", [*FAMILIES])
def test_the_makers_names_are_those_of_their_layers(name, prefix):
    model, right = record(name)
    made = as_makers(model, right, prefix)
    assert any(f"/{prefix}{FAMILIES[name][1]}/" in key for key in made)
    report = judge(model, made)
    assert report.verdict == "equal", (report.gaps, report.faults[:3])
    assert {row.layer for row in report.rows if row.kind == "own"} > {FAMILIES[name][0]}


@pytest.mark.parametrize("name", [*FAMILIES])
def test_a_fault_in_a_part_of_a_joined_layer_is_that_of_its_layer(name):
    layer, _ = FAMILIES[name]
    model, wrong = record(name, {layer: lambda call, x: 1.5 * call.compute(x)})
    report = judge(model, as_makers(model, wrong))
    assert named(report) == [layer] and "scaled by 1.5" in report.faults[0].cause


def test_layers_that_no_file_names_keep_their_names():
    model, right = record("flux-tiny")
    made = as_makers(model, right) | {"transformer.000/double_blocks.0.hook/output": np.ones(3)}
    report = judge(model, made)
    assert report.verdict == "incomplete"
    assert any(re.search(r"1 layers .*: double_blocks\.0\.hook", gap) for gap in report.gaps)


def test_names_of_ldmref_are_no_names_of_a_file():
    """Z-Image's makers have some of ldmref's names: all that were recorded decide."""
    model, right = record("z-image-tiny")
    assert judge(model, right).verdict == "equal"


def test_a_joined_layer_that_lacks_a_channel_lacks_it_in_its_last_part():
    model, right = record("flux-tiny")
    made = as_makers(model, right)
    layer = "transformer.000/double_blocks.0.img_attn.qkv/output"
    report = judge(model, {**made, layer: made[layer][..., :-1]})
    assert named(report) == ["transformer_blocks.0.attn.to_v"]
    assert report.faults[0].note == "shape (2, 8, 23) instead of (2, 8, 24)"


def decode_as_makers(model, prefix):
    """Return the arrays of a decoder, of the layers that the makers' file of it names."""
    table = original_autoencoder_table(model.config.vae)
    names = {own.rpartition(".")[0]: entry.name.rpartition(".")[0] for own, entry in table.items()}
    with ldmref.recording(model) as run:
        modes.txt2img(model, "a red heart", seed=1, steps=1)
    found = {}
    for key, x in run.trace.tensors.items():
        call, layer, role = key.split("/")
        if call == "vae.decode" and not layer:
            found[key] = x
        elif call == "vae.decode" and layer in names:
            found[f"{call}/{prefix}{names[layer]}/{role}"] = x
    return found


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_layers_of_an_autoencoder_have_the_makers_names(prefix):
    model = ldmref.random_model("tiny", dtype="float64")
    made = decode_as_makers(model, prefix)
    layer = f"vae.decode/{prefix}decoder.mid.block_1.conv1/output"
    report = judge(model, made)
    assert report.verdict == "equal", (report.gaps, report.faults[:3])
    assert "decoder.mid_block.resnets.0.conv1" in {row.layer for row in report.rows}
    report = judge(model, made | {layer: 1.5 * made[layer]})
    assert named(report)[0] == "decoder.mid_block.resnets.0.conv1"
