"""Comparisons that lie are refused, or their cause is named: the cases of public threads."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_ports import make_model, run_port

from ldmref.errors import UsageError
from ldmref.locate import diff_traces
from ldmref.locate.preflight import find_gaps, require_comparable, with_request
from ldmref.locate.recorded.precision import round_to
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


# -- what is refused, and what is nearly it and is not --------------------------------------------


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def layers(*arrays, call="unet.000", name="l{:02}"):
    return {f"{call}/{name.format(i)}/output": np.asarray(x) for i, x in enumerate(arrays)}


def calls(*runs, network="unet"):
    """Return the arrays of calls, each as numbers by "LAYER/SIDE"."""
    return {
        f"{network}.{i:03}/{name}": np.arange(3.0) + number
        for i, run in enumerate(runs)
        for name, number in run.items()
    }


FLAT, VARIED = np.full(3, 2.0), np.arange(3.0)
WIDE = normal(0, 2048).astype(np.float32)
NARROW, HALF = (np.asarray(round_to(WIDE, x), np.float32) for x in ("bfloat16", "float16"))
EXACT = np.arange(64, dtype=np.float32)  # in any format
PORT = {"unet.000/a/output": normal(0, 8), "unet.000//output": normal(1, 8)}
ONCE = {"x/input": 1, "x/output": 2, "y/input": 3, "y/output": 4}
AGAIN = ONCE | {"y/input": 9}
NAN = np.array([1.0, np.nan])

REFUSED = {
    "outputs of one value": (layers(FLAT, FLAT, FLAT[:1]), None, "all 2 outputs are constant"),
    "whole numbers beside them": (layers(FLAT, FLAT, np.arange(4)), None, "all 2 outputs"),
    "numbers of the host": (layers(FLAT, FLAT) | {"sampler.000//output": VARIED}, None, "all 2"),
    "one output that varies": (layers(FLAT, FLAT, VARIED), None, ""),
    "one output": (layers(FLAT), None, ""),
    "a constant reference": (layers(VARIED, VARIED), layers(FLAT, FLAT), "the reference: all 2"),
    "numbers of bfloat16": (layers(NARROW, NARROW), None, "of bfloat16"),
    "numbers of float16": (layers(EXACT, HALF), None, "of float16"),
    "numbers of either": (layers(HALF, NARROW * 2.0**-40), None, ""),
    "numbers of float32": (layers(NARROW, WIDE), None, ""),
    "one layer of bfloat16": (layers(NARROW), None, ""),
    "few numbers of it": (layers(NARROW[:31], NARROW[:31]), None, ""),
    "enough numbers of it": (layers(NARROW[:32], NARROW[:32]), None, "of bfloat16"),
    "what is narrow at first": (
        layers(*[np.concatenate([NARROW[:1024], WIDE[1024:]]).reshape(64, 32)] * 2),
        None,
        "of bfloat16",
    ),
    "every second layer": (layers(*[NARROW, WIDE] * 16), None, "of bfloat16"),
    "tables": (layers(NARROW, 2.0 * NARROW, name="b{}.embed_tokens"), None, ""),
    "what tables give": (layers(NARROW, 2.0 * NARROW, name="embedding.{}"), None, "of bfloat16"),
    "a buffer used again": (calls(ONCE, AGAIN), None, "unet.000 and unet.001 hold the same"),
    "the same inputs": (calls(ONCE, ONCE), None, ""),
    "another output": (calls(ONCE, AGAIN | {"x/output": 9}), None, ""),
    "one layer alone": (
        calls({"x/input": 1, "x/output": 2}, {"x/input": 9, "x/output": 2}),
        None,
        "",
    ),
    "a layer that is new": (calls(ONCE, AGAIN | {"z/output": 1}), None, ""),
    "the call after the next": (calls(ONCE, AGAIN | {"x/output": 5}, AGAIN), None, ""),
    "calls of the host": (calls(ONCE, AGAIN, network="sampler"), None, ""),
    "a reference that is not finite": (PORT, PORT | {"unet.001//output": NAN}, "has NaN at [1]"),
    "a layer that is not": (PORT, PORT | {"unet.000/b/output": NAN}, ""),
    "a host that is not": (PORT, PORT | {"schedule//output.sigmas": NAN}, ""),
    "an image of one colour": (PORT, PORT | {"vae.decode.000//output": np.ones(2)}, "one colour"),
    "latents of one colour": (PORT, PORT | {"vae.encode.000//output": np.ones(2)}, ""),
    "other sizes": (
        layers(*PORT.values()),
        layers(VARIED, VARIED),
        "(8,) and (3,) in unet.000/l00",
    ),
    "one of the same size": (layers(*PORT.values()), layers(VARIED, PORT["unet.000//output"]), ""),
    "other layers": (layers(*PORT.values()), layers(VARIED, VARIED, name="o{}"), ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_traces_that_cannot_be_compared_are_refused(name):
    port, reference, words = REFUSED[name]
    other = None if reference is None else build_trace(reference)
    if not words:
        require_comparable(build_trace(port), other, "float32")
        return
    with pytest.raises(UsageError) as caught:
        require_comparable(build_trace(port), other, "float32")
    assert words in str(caught.value) and caught.value.code == "E-TRACE-RUN"


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_only_ports_of_float32_are_asked_for_their_format(dtype):
    require_comparable(build_trace(layers(NARROW, NARROW)), None, dtype)


@pytest.mark.parametrize("name", ["sampler", "schedule", "scheduler"])
def test_references_of_other_programs(name):
    def trace(value):
        if name == "scheduler":
            return build_trace(PORT, {"scheduler": {"class": value}, "params": None})
        return build_trace(PORT, {"params": {name: value}, "scheduler": None})

    with pytest.raises(UsageError, match=f"made with {name} 'y', and the port with 'x'"):
        require_comparable(trace("x"), trace("y"))
    for ours, theirs in (("x", "x"), (None, "y"), ("x", None)):
        require_comparable(trace(ours), trace(theirs))
    require_comparable(build_trace(PORT), trace("y"))


# -- gaps -----------------------------------------------------------------------------------------

NAMES = [letter * 90 for letter in "abcdef"]


@pytest.mark.parametrize(
    ("manifest", "begin", "end"),
    [
        ({"complete": False}, "the recorded run was stopped", "before its end"),
        (
            {"missing_tensors": NAMES},
            "6 tensors of the manifest missing: a",
            f"{NAMES[4]} and 1 more",
        ),
        ({"left_out": dict.fromkeys(NAMES, "x")}, "6 parts ", f" {'e' * 80} and 1 more"),
        ({"left_out": {"vae.decode": "too large"}}, "1 part ", ": vae.decode (too large)"),
        ({"unknown_names": NAMES}, "6 names ", f" {'e' * 80} and 1 more"),
        ({"unknown_names": [7]}, "1 name ", ": 7"),
    ],
)
def test_each_thing_that_a_recording_lacks_is_a_gap(manifest, begin, end):
    (found,) = find_gaps(build_trace({}, manifest))
    assert found.startswith(begin) and found.endswith(end)
    assert not find_gaps(build_trace({}, {name: None for name in manifest if name == "left_out"}))


@pytest.mark.parametrize(
    ("runs", "controlnets", "gaps"),
    [
        (["bacde", "a"], 0, ["unet.001 lacks 4 layers that unet.000 has: b, c, d and 1 more"]),
        (
            ["ab", "a", "b"],
            0,
            [
                "unet.001 lacks 1 layer that unet.000 has: b",
                "unet.002 lacks 1 layer that unet.000 has: a",
            ],
        ),
        (["a", "ab", "a"], 0, []),
        (["ab", "b"], 2, ["unet.001 lacks 1 layer that unet.000 has: a"]),
    ],
)
def test_later_calls_have_the_layers_of_the_first(runs, controlnets, gaps):
    port = build_trace(calls(*({f"{x}/output": 0 for x in run} for run in runs)))
    assert find_gaps(port, controlnets) == gaps
    host = build_trace(calls({"x/output": 0, "y/output": 0}, {"x/output": 0}, network="sampler"))
    assert not find_gaps(host)


@pytest.mark.parametrize(("controlnets", "lacking"), [(0, "12"), (1, "12"), (2, "2"), (3, "")])
def test_each_controlnet_has_its_own_layers(controlnets, lacking):
    runs = ({f"{x}/output": 0 for x in run} for run in ("ab", "b", "b"))
    gaps = find_gaps(build_trace(calls(*runs, network="controlnet")), controlnets)
    assert [gap.partition(" ")[0] for gap in gaps] == [f"controlnet.00{i}" for i in lacking]


def test_a_port_takes_the_request_of_its_reference():
    port, asked = build_trace(PORT, {"dtype": "float16"}), build_trace({}, {"params": {"seed": 1}})
    found = with_request(port, asked)
    assert found.manifest == {"dtype": "float16", "params": {"seed": 1}}
    assert found.entries == port.entries and "params" not in port.manifest
    for reference in (None, port, build_trace({}, {"scheduler": {}})):
        assert with_request(port, reference) is port
    for manifest in ({"params": {}}, {"scheduler": {"class": "x"}}):
        own = build_trace({}, manifest)
        assert with_request(own, asked) is own
