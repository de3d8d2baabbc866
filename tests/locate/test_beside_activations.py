"""An activation that was not recorded does not take the cause of the attention beside it along."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy_ports import make_model, run_port

from ldmref.locate import diff_traces
from ldmref.models.transformer_layers import find_angles, turn
from ldmref.trace import build_trace

SINGLE = "single_transformer_blocks.0"
LAYERS = re.compile(r".*(to_[qkv]|norm_[qk]|proj_mlp|proj_out)")  # without rotations and attention
ROTATIONS = (f"{SINGLE}.attn.rotate", f"{SINGLE}.attn.rotate~1")


def backwards(call, x):
    """Return a rotation in the other direction."""
    angles = find_angles(x["positions"], call.attributes["dims"])
    return turn(x["input"], -angles).astype(np.float32)


def unscaled(call, x):
    """Return attention without its scale."""
    return call.compute({**x, "input": x["input"] * np.float32(x["input"].shape[-1] ** 0.5)})


FAULTS = {
    "rotations": (dict.fromkeys(ROTATIONS, backwards), "rotat"),
    "a rotation": ({ROTATIONS[0]: backwards}, "rotat"),
    "attention": ({f"{SINGLE}.attn.attention": unscaled}, "scale"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_attention_beside_an_activation_is_named(fault):
    wrong, words = FAULTS[fault]
    model = make_model("flux-tiny")
    tensors = {
        key: x
        for key, x in run_port(model, wrong, "transformer").items()
        if key.count("//") or LAYERS.fullmatch(key.split("/")[1])
    }
    (row,) = diff_traces(build_trace(tensors), model).faults
    assert row.layer == f"{SINGLE}.proj_out" and "act_mlp" in row.segment
    assert (words in row.cause and SINGLE in row.cause) or "all rotate" in row.cause, row
