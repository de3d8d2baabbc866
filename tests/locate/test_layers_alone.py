"""Layers that were recorded alone are judged by their own shapes, whatever the run would have."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy_ports import make_model, run_port

import ldmref
from ldmref.apps.cli.main import main
from ldmref.locate import diff_traces
from ldmref.trace import build_trace

WRITER = Path(__file__).parents[2] / "examples" / "porting" / "write_trace.c"
COMPILER = shutil.which("cc") or shutil.which("gcc")
MID = "unet.000/mid_block.attentions.0.transformer_blocks.0"
TO_Q = f"{MID}.attn2.to_q"
CONV = "unet.000/conv_in"
SILU = "unet.000/time_embedding.silu"


@pytest.fixture(scope="module")
def model():
    return ldmref.random_model("tiny", seed=3)


@pytest.fixture
def tensors(model):
    """Return three layers whose shapes belong to no common run."""
    rng = np.random.default_rng(0)
    unet = model.params["unet"]
    block = unet.mid_block.attentions["0"].transformer_blocks["0"]
    weight = block.attn2.to_q.weight
    tokens = rng.standard_normal((2, 32, weight.shape[1]))
    image = rng.standard_normal((1, unet.conv_in.weight.shape[1], 5, 7))
    x = rng.standard_normal((2, 8))
    found = {
        TO_Q: (tokens, tokens @ weight.T),
        CONV: (image, model.backend.conv2d(image, unet.conv_in.weight, unet.conv_in.bias, 1, 1)),
        SILU: (x, x / (1.0 + np.exp(-x))),
    }
    return {
        f"{name}/{side}": np.asarray(x, np.float32)
        for name, pair in found.items()
        for side, x in zip(("input", "output"), pair, strict=True)
    }


def judge(model, tensors):
    report = diff_traces(build_trace(tensors), model)
    return report, {row.name: row for row in report.rows}


def test_layers_of_other_shapes_are_equal(model, tensors):
    report, rows = judge(model, tensors)
    assert {name: row.verdict for name, row in rows.items()} == dict.fromkeys(
        (TO_Q, CONV, SILU), "equal"
    )
    assert not report.notes


@pytest.mark.parametrize("name", [TO_Q, CONV, SILU])
def test_a_wrong_one_is_named_alone(model, tensors, name):
    report, rows = judge(model, tensors | {f"{name}/output": 1.01 * tensors[f"{name}/output"]})
    assert [row.name for row in report.faults] == [name]
    assert rows[name].cause == "scaled by 1.01"


def test_a_layer_that_is_left_out_is_said_to_be_skipped(model, tensors):
    _, rows = judge(model, tensors | {f"{SILU}/output": tensors[f"{SILU}/input"]})
    assert rows[SILU].cause == "time_embedding.silu is skipped: its output is its input"


def test_a_missing_bias_is_explained_alone(model, tensors):
    model = ldmref.random_model("tiny", seed=3)
    layer = model.params["unet"].conv_in
    bias = layer["bias"] = np.linspace(-1.0, 1.0, len(layer.bias), dtype=np.float32)
    output = tensors[f"{CONV}/output"]
    right, _ = judge(model, tensors | {f"{CONV}/output": output + bias[:, None, None]})
    assert not right.faults
    _, rows = judge(model, tensors)
    assert rows[CONV].cause == "bias is missing"


def test_inputs_that_do_not_fit_the_weights_are_blamed_and_the_others_judged(model, tensors):
    wrong = {f"{TO_Q}/{side}": np.ones((2, 32, 7), np.float32) for side in ("input", "output")}
    report, rows = judge(model, tensors | wrong)
    assert [row.name for row in report.faults] == [TO_Q]
    assert "(2, 32, 7) does not fit its weights" in rows[TO_Q].note
    assert rows[CONV].verdict == rows[SILU].verdict == "equal"
    assert not report.notes


def test_a_run_whose_arrays_do_not_fit_is_blamed_and_its_layers_judged(model, tensors):
    sample = {"unet.000//input.sample": np.ones((1, 3, 8, 8), np.float32)}
    report, rows = judge(model, {**sample, **tensors})
    notes = [row.note for row in report.rows if row.name == "unet.000"]
    assert any("cannot be replayed" in note for note in notes)
    assert "timestep, encoder_hidden_states were not recorded, and nothing else says them" in notes
    assert not report.notes
    assert rows[TO_Q].verdict == rows[SILU].verdict == "equal"


@pytest.mark.skipif(COMPILER is None, reason="NOT TESTED: there is no C compiler here")
def test_the_example_in_c_agrees_with_the_embedded_model(tmp_path, capsys):
    program = tmp_path / "write_trace"
    command = [COMPILER, "-O2", "-D_POSIX_C_SOURCE=200809L", "-o", program, WRITER, "-lm"]
    subprocess.run(command, check=True)
    subprocess.run([program, tmp_path / "port"], check=True)
    code = main(["diff", str(tmp_path / "port"), "-m", "emoji", "--all"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert "time_embedding.silu" in shown.out and "guidance.000 (guidance)" in shown.out


@pytest.mark.parametrize(
    ("layer", "reader"), [("to_q", "attentions.0~1.attention"), ("to_out.0", "attentions.0~1")]
)
def test_a_layer_of_a_block_that_is_counted_twice_is_judged_by_outputs_alone(layer, reader):
    """The attention of an autoencoder and what is around it have one name, the former with ~1.

    The layer differs from its input, and what reads it from the layer's changed output.
    """
    model = make_model("tiny")
    tensors = run_port(model, network="vae.decode")
    outputs = {k: x for k, x in tensors.items() if "/output" in k or "//" in k}
    block = "vae.decode/decoder.mid_block"
    name = f"{block}.attentions.0.{layer}"
    noise = np.random.default_rng(0).standard_normal(outputs[f"{name}/output"].shape)
    outputs[f"{name}/output"] = outputs[f"{name}/output"] + noise.astype(np.float32)
    report = diff_traces(build_trace(outputs), model)
    assert [row.name for row in report.faults] == [name, f"{block}.{reader}"]
    assert not report.counts()["not judged"]
