"""Comparisons that lie are refused, or their cause is named: the cases of public threads."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_ports import make_model, run_port

from ldmref.errors import UsageError
from ldmref.locate import diff_traces
from ldmref.locate.precision import round_to
from ldmref.trace import build_trace

BLOCK = "transformer_blocks.0"


@pytest.fixture(scope="module")
def model():
    return make_model("flux-tiny")


@pytest.fixture(scope="module")
def tensors(model):
    return run_port(model, network="transformer")


def outputs(tensors):
    return {name for name in tensors if "/output" in name}


def second_call(tensors):
    """Return the same arrays as those of the next call, which has another timestep."""
    later = {name.replace("transformer.000", "transformer.001"): x for name, x in tensors.items()}
    later["transformer.001//input.timestep"] = np.array([100.0, 100.0], np.float32)
    return later


def judge(model, tensors, reference=None):
    other = None if reference is None else build_trace(reference)
    return diff_traces(build_trace(tensors), model, other)


def test_zeros_of_a_profiling_run_are_refused(model, tensors):
    """verl-omni#254."""
    zeros = {name: 0 * x if name in outputs(tensors) else x for name, x in tensors.items()}
    with pytest.raises(UsageError, match="outputs are constant"):
        judge(model, zeros)


def test_another_tensor_under_the_name_is_named(model, tensors):
    """verl-omni#254: hooks of two modules wrote under one name."""
    wrong = {
        **tensors,
        f"transformer.000/{BLOCK}.attn.to_q/output": tensors[
            f"transformer.000/{BLOCK}.attn.to_k/output"
        ],
    }
    causes = {row.layer: row.cause for row in judge(model, wrong).faults}
    assert "to_k" in causes[f"{BLOCK}.attn.to_q"]


def test_an_output_without_its_residual_is_named():
    """verl-omni#254: the hook saw the output of a layer before its residual was added."""
    unet = make_model("tiny")
    tensors = run_port(unet, hidden=("add",))
    block = "mid_block.resnets.0"
    tensors[f"unet.000/{block}/output"] = tensors[f"unet.000/{block}.conv2/output"]
    (found,) = (row for row in judge(unet, tensors).faults if row.layer == block)
    assert found.cause == f"equals the output of {block}.conv2"


def test_dumps_of_one_buffer_are_refused(model, tensors):
    """kekzl/imp#1275: dumps under CUDA graphs were all the same."""
    with pytest.raises(UsageError, match=r"transformer.000 and transformer.001 hold the same"):
        judge(model, {**tensors, **second_call(tensors)})


def test_calls_with_the_same_inputs_may_be_equal(model, tensors):
    later = second_call(tensors)
    later["transformer.001//input.timestep"] = tensors["transformer.000//input.timestep"]
    assert judge(model, {**tensors, **later}).equal


def test_layers_that_later_calls_lack_are_a_gap(model, tensors):
    """sglang#38439: under CUDA graphs module hooks never run again."""
    later = second_call(run_port(model, network="transformer", given={"t": np.array([9.0, 8.0])}))
    later["transformer.001//input.timestep"] = np.array([9.0, 8.0])
    kept = {name: x for name, x in later.items() if BLOCK not in name}
    report = judge(model, {**tensors, **kept})
    assert not report.faults and report.verdict == "incomplete"
    assert any("transformer.001 lacks" in gap for gap in report.gaps)


def test_traces_of_other_sizes_are_refused(model, tensors):
    """aprender#1108: a ratio was an artefact of different sample sizes."""
    half = {name: x[:1] for name, x in tensors.items()}
    with pytest.raises(UsageError, match="no output of the port has the shape"):
        judge(model, tensors, half)


def test_an_inaccurate_reference_does_not_make_a_port_wrong(model, tensors):
    """aprender#3032: the reference was the inaccurate side."""
    rng = np.random.default_rng(0)
    poor = {
        name: x + 0.2 * rng.standard_normal(x.shape) if name in outputs(tensors) else x
        for name, x in tensors.items()
    }
    report = judge(model, tensors, poor)
    assert report.equal
    assert any("the reference is the inaccurate side" in note for note in report.notes)
    assert judge(model, poor).faults


@pytest.mark.parametrize(("value", "words"), [(np.nan, "has NaN"), (0.0, "is one colour")])
def test_a_reference_of_black_images_is_refused(model, tensors, value, words):
    """TensorRT-Model-Connect#783: uniform black images were the reference."""
    image = {"vae.decode//output": np.ones((1, 3, 8, 8), np.float32) * [[[[1.0]]]]}
    black = {"vae.decode//output": np.full((1, 3, 8, 8), value, np.float32)}
    with pytest.raises(UsageError, match=words):
        judge(model, {**tensors, **image}, {**tensors, **black})


def to_format(x, name):
    return round_to(x, name) if x.dtype.kind == "f" else x


@pytest.mark.parametrize("form", ["bfloat16", "float16"])
def test_arrays_of_another_format_are_refused(model, tensors, form):
    """UniRL#388: scores of float32 numbers, and the trainer was given those after a cast."""
    cast = {name: to_format(x, form) for name, x in tensors.items()}
    with pytest.raises(UsageError, match=f"judged as float32, and its outputs hold .* of {form}"):
        judge(model, cast)
    assert diff_traces(build_trace(cast), model, dtype=form).verdict in ("equal", "differs")


def test_some_arrays_of_another_format_are_judged(model, tensors):
    """Text encoders in bfloat16 beside a denoiser in float32, or rows of a table."""
    text = run_port(model, network="text_encoder")
    cast = {name: to_format(x, "bfloat16") for name, x in text.items()}
    assert judge(model, {**tensors, **cast}).faults
    rows = {name: x for name, x in cast.items() if "embedding" in name}
    assert len(rows) > 1
    judge(model, rows)  # a checkpoint in bfloat16


def test_what_was_cast_after_it_was_recorded_is_named(model, tensors):
    """UniRL#388: a network returns another array than the one that its last layer recorded."""
    name = "transformer.000//output"
    (found,) = judge(model, {**tensors, name: round_to(tensors[name], "bfloat16")}).faults
    assert (found.layer, found.cause) == ("", "rounded to bfloat16")


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ({"params": {"sampler": "euler"}}, {"params": {"sampler": "dpmpp_2m"}}, "sampler"),
        (
            {"scheduler": {"class": "FlowMatchEulerDiscreteScheduler"}},
            {"scheduler": {"class": "UniPCMultistepScheduler"}},
            "scheduler",
        ),
    ],
)
def test_a_reference_of_another_sampler_is_refused(model, tensors, ours, theirs, words):
    """UniRL#374: the reference silently fell back to another flow."""
    port, reference = build_trace(tensors, ours), build_trace(tensors, theirs)
    with pytest.raises(UsageError, match=f"the reference was made with {words}"):
        diff_traces(port, model, reference)
    assert diff_traces(port, model, build_trace(tensors)).equal
