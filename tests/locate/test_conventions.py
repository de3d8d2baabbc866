"""Conventions of ports are no faults: what is written in another way is equal, a mixture is not.

Each port is a right run whose arrays are those of another convention.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy_ports import SIZES, make_model, run_port

from ldmref.locate import diff_traces
from ldmref.locate.recorded.conventions import ORDER, Convention
from ldmref.locate.recorded.terms import PortTerms, TermsFound, follow_in_terms
from ldmref.math import timestep_embedding
from ldmref.trace import build_trace
from ldmref.trace.calls import TraceCall

CALL = "transformer.000"
TOKENS = 5  # of a text
SHORT = [1, 1, 1, 0, 0]
MASKS = {
    "whole": np.ones((2, TOKENS), np.int64),
    "unequal": np.array([[1] * 5, SHORT]),
    "short": np.array([SHORT, SHORT]),
}
HIDDEN = (".positions", ".seen", ".score_bias")  # inputs of layers that no port has
MODELS: dict = {}


def model_of(name):
    return MODELS.setdefault(name, make_model(name))


def record(name, wrong=None, times=(400.0,), mask="whole", **changed):
    """Return a model, and the arrays of a port's calls of its transformer."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "references", 4)
        for number, time in enumerate(times):
            given = {"t": np.full(2, time, np.float32), "mask": MASKS[mask]}
            changes = {key: change(given[key]) for key, change in changed.items()}
            made = run_port(model_of(name), wrong, "transformer", given=given, **changes)
            renamed = {k.replace(".000", f".{number:03}", 1): x for k, x in made.items()}
            found |= {k: x for k, x in renamed.items() if not k.endswith(HIDDEN)}
    return model_of(name), found


def judge(model, tensors):
    return diff_traces(build_trace(tensors), model)


def named(report):
    return [row.layer for row in report.faults]


def assert_equal(report, words):
    """Check that nothing differs, and that the conventions are said once."""
    assert report.verdict == "equal", [(row.name, row.cause, row.note) for row in report.faults][:5]
    assert [words in note for note in report.notes].count(True) == 1, report.notes


# -- scores of attention --------------------------------------------------------------------------


def scaled(tensors, role, power):
    """Return a port whose queries or keys have a power of the channels of a head as a factor."""
    ends = f".attention/{role}"  # "input" or "input.k"
    return {k: x * x.shape[-1] ** power if k.endswith(ends) else x for k, x in tensors.items()}


@pytest.mark.parametrize("power, words", [(0.5, "sqrt(d)"), (-0.5, "1/sqrt(d)")])
@pytest.mark.parametrize("role, what", [("input", "queries"), ("input.k", "keys")])
def test_the_scale_of_the_scores_may_be_that_of_queries_or_keys(role, what, power, words):
    model, tensors = record("flux-tiny")
    report = judge(model, scaled(tensors, role, power))
    assert_equal(report, f"{what} of attention multiplied by {words}")


def test_queries_and_keys_may_share_the_scale_of_the_scores():
    model, tensors = record("flux-tiny")
    report = judge(model, scaled(scaled(tensors, "input", -0.25), "input.k", -0.25))
    assert_equal(report, "keys of attention multiplied by d^(-1/4)")
    assert "queries of attention multiplied by d^(-1/4)" in report.notes[0]


def test_keys_of_one_attention_with_another_scale_are_a_fault():
    model, tensors = record("flux-tiny")
    layer = "transformer_blocks.0.attn.attention"
    changed = scaled(tensors, "input.k", 0.5)
    report = judge(model, tensors | {f"{CALL}/{layer}/input.k": changed[f"{CALL}/{layer}/input.k"]})
    assert {*named(report)} == {layer}


def test_keys_that_attention_reads_with_another_scale_are_a_fault():
    name = "transformer_blocks.0.attn.attention"
    model, tensors = record("flux-tiny")
    d = tensors[f"{CALL}/{name}/input.k"].shape[-1]

    def attend(call, x):
        return call.compute({**x, "k": x["k"] * d**0.5})

    layers = {key.split("/")[1] for key in tensors if key.endswith(".attention/input.k")}
    model, wrong = record("flux-tiny", dict.fromkeys(layers, attend))
    assert {*named(judge(model, scaled(wrong, "input.k", 0.5)))} == layers


# -- halves of the last norms ---------------------------------------------------------------------

LAST = {
    "flux-tiny": ("norm_out.linear",),
    "flux2-tiny": ("norm_out.linear",),
    "sd3-tiny": ("norm_out.linear", "transformer_blocks.2.norm1_context.linear"),
}


def swap(x):
    return np.roll(x, x.shape[-1] // 2, axis=-1)


def with_swapped(tensors, layers):
    outputs = {f"transformer.000/{layer}/output" for layer in layers}
    return {key: swap(x) if key in outputs else x for key, x in tensors.items()}


@pytest.mark.parametrize("name", [*LAST])
def test_the_makers_halves_of_the_last_norms_are_equal(name):
    model, right = record(name)
    assert_equal(judge(model, with_swapped(right, LAST[name])), "shift before scale")
    assert not judge(model, right).notes


def test_the_makers_halves_without_an_axis_of_one_token_are_equal():
    model, right = record("flux3-tiny")
    (layer,) = LAST["flux-tiny"]
    key = f"transformer.000/{layer}/output"
    assert_equal(judge(model, right | {key: swap(right[key])[:, 0]}), "shift before scale")


def test_halves_with_an_axis_for_the_tokens_are_equal():
    model, right = record("flux-tiny")
    key = "transformer.000/norm_out.linear/output"
    assert_equal(judge(model, right | {key: swap(right[key])[:, None]}), "shift before scale")


def test_halves_of_one_norm_alone_are_a_fault():
    model, right = record("sd3-tiny")
    report = judge(model, with_swapped(right, ["norm_out.linear"]))
    assert "norm_out.linear" in named(report) and not report.notes
    assert "halves of the output are swapped" in report.faults[0].cause


def test_halves_that_are_read_in_the_wrong_order_are_a_fault():
    wrong = {"norm_out.linear": lambda call, x: swap(call.compute(x))}
    report = judge(*record("flux-tiny", wrong))
    assert named(report) == ["norm_out.linear"]


def test_a_fault_beside_the_makers_halves_is_named_alone():
    wrong = {"x_embedder": lambda call, x: 1.5 * call.compute(x)}
    model, tensors = record("flux-tiny", wrong)
    report = judge(model, with_swapped(tensors, LAST["flux-tiny"]))
    assert named(report) == ["x_embedder"] and "scaled by 1.5" in report.faults[0].cause
    assert any("shift before scale" in note for note in report.notes)


# -- the order of tokens --------------------------------------------------------------------------

JOINED = {  # model -> all tokens, and those that ldmref has first
    "flux-tiny": (13, 5, "image first"),
    "flux3-tiny": (41, 5, "image first"),
    "krea-2-tiny": (13, 5, "image first"),
    "sd3-tiny": (13, 8, "text first"),
    "z-image-tiny": (64, 32, "text first"),
}


def in_other_order(name, key, x):
    length, first, _ = JOINED[name]
    joined = x.ndim in (3, 4) and x.shape[-2] == length and "//" not in key
    return np.roll(x, -first, axis=-2) if joined else x


@pytest.mark.parametrize("name", [*JOINED])
def test_tokens_in_the_other_order_are_equal(name):
    model, right = record(name)
    turned = {key: in_other_order(name, key, x) for key, x in right.items()}
    assert_equal(judge(model, turned), JOINED[name][2])


@pytest.mark.full
def test_tokens_in_the_other_order_are_equal_in_texts_of_several_lengths(monkeypatch):
    """The longer text has as many tokens as image and shorter text together."""
    model, right = record("z-image-tiny")
    monkeypatch.setitem(SIZES, "tokens", 40)
    monkeypatch.setitem(MASKS, "long", np.ones((2, 40), np.int64))
    _, long = record("z-image-tiny", mask="long")
    tensors = {key: in_other_order("z-image-tiny", key, x) for key, x in right.items()}
    for key, x in long.items():
        joined = x.ndim in (3, 4) and x.shape[-2] == 96 and "//" not in key
        tensors[key.replace(".000", ".001", 1)] = np.roll(x, -32, axis=-2) if joined else x
    assert_equal(judge(model, tensors), "text first")


def test_an_order_that_hides_faults_is_not_the_better_one():
    """An order known from tokens of another number leaves one fault without a cause, of fewer."""
    orders = [
        Convention(ORDER, "text first", np.asarray, lambda *_: False, length) for length in (64, 96)
    ]
    faults = {64: (3, 1), 96: (4, 0)}  # by length: all, and those without a cause
    model = model_of("z-image-tiny")
    call = TraceCall("transformer.003")
    port = build_trace({"transformer.003/layers.0/output": np.zeros((1, 1, 1), np.float32)})
    terms = PortTerms().of_call(port, model, call, ())
    terms.adopted[ORDER] = orders[0]

    def follow(port, seen):
        if ORDER not in seen.adopted:
            raise TermsFound(orders[1])
        return seen.adopted[ORDER].length

    assert follow_in_terms(terms, port, call, follow, faults.__getitem__) == 96


def test_the_layer_after_tokens_in_the_other_order_is_judged():
    wrong = {"norm_out": lambda call, x: call.compute({**x, "emb": 0.5 * x["emb"]})}
    model, tensors = record("flux-tiny", wrong)
    turned = {key: in_other_order("flux-tiny", key, x) for key, x in tensors.items()}
    layers = named(judge(model, turned))
    assert layers and {*layers} == {*named(judge(model, tensors))}


def test_one_layer_in_the_other_order_is_a_fault():
    model, right = record("z-image-tiny")
    key = "transformer.000/layers.1.attention.to_q/output"
    report = judge(model, right | {key: in_other_order("z-image-tiny", key, right[key])})
    assert "layers.1.attention.to_q" in named(report) and not report.notes
    assert "concatenated in the other order" in report.faults[0].cause


def test_a_mixture_of_two_orders_is_a_fault():
    model, right = record("z-image-tiny", times=(1000.0, 700.0))
    second = {k: in_other_order("z-image-tiny", k, x) for k, x in right.items() if ".001/" in k}
    report = judge(model, right | second)
    assert report.faults and {row.call for row in report.faults} == {"transformer.001"}


# -- times and guidance ---------------------------------------------------------------------------

TIMES = {
    "time in 0..1": lambda t: t / 1000.0,
    "time from the noise at 0 to the image at 1": lambda t: 1.0 - t / 1000.0,
    "time from the noise at 0 to the image at 1000": lambda t: 1000.0 - t,
}


def with_times(tensors, change):
    kept = {key: x.astype(np.float64) for key, x in tensors.items() if key.endswith(".timestep")}
    return tensors | {key: change(x).astype(np.float32) for key, x in kept.items()}


@pytest.mark.parametrize("words", [*TIMES])
@pytest.mark.parametrize("name", ["z-image-tiny", "qwen-image-2.1-tiny", "flux2-tiny"])
def test_times_in_another_unit_are_equal(name, words):
    model, right = record(name, times=(1000.0, 700.0))
    tensors = with_times(right, TIMES[words])
    assert_equal(judge(model, tensors), words)
    whole = {key: x for key, x in tensors.items() if "//" in key}
    assert_equal(judge(model, whole), words)


@pytest.mark.parametrize("name", ["flux-tiny", "krea-2-tiny"])
def test_a_time_in_0_to_1_is_found_where_its_embedding_alone_rounds(name):
    """float32 rounds the waves of 613.7 by 600 times as much as those of 0.6137."""
    model, right = record(name, times=(613.7,))
    kept = re.compile(r"/(/(input|output)|\w*(time_)?embed\w*\.(\w+\.)?linear_1/)")
    port = {key: x for key, x in right.items() if kept.search(key) and "text" not in key}
    for key in [key for key in port if key.endswith("linear_1/input") and "guid" not in key]:
        low = timestep_embedding(np.float32([613.7, 613.7]), port[key].shape[-1])
        port[key] = low.reshape(port[key].shape)
    report = judge(model, with_times(port, lambda t: t / 1000.0))
    assert not report.faults, report.faults
    assert any("time in 0..1" in note for note in report.notes)


def test_other_names_of_the_time_and_the_mask_are_known():
    model, right = record("z-image-tiny", mask="unequal")
    names = {"input.timestep": "input.timesteps", "input.encoder_attention_mask": "input.mask"}
    for own, other in names.items():
        key = f"transformer.000//{own}"
        port = {k.replace(key, f"transformer.000//{other}"): x for k, x in right.items()}
        assert key in right and judge(model, port).verdict == "equal"


def test_velocities_follow_the_direction_of_the_time():
    model, right = record("z-image-tiny", times=(1000.0, 700.0))
    negative = {key: -x for key, x in right.items() if key.endswith("//output")}
    turned = with_times(right | negative, lambda t: 1.0 - t / 1000.0)
    assert_equal(judge(model, turned), "velocity from the noise to the image")
    assert judge(model, right | negative).verdict == "differs"


def test_guidance_in_another_unit_is_equal():
    model, right = record("flux-tiny")
    key = "transformer.000//input.guidance"
    assert_equal(judge(model, right | {key: 1000.0 * right[key]}), "guidance multiplied by 1000")


@pytest.mark.parametrize("change", [lambda t: 1000.0 - t, lambda t: t / 1000.0])
def test_a_time_that_is_embedded_in_another_unit_is_a_fault(change):
    report = judge(*record("z-image-tiny", times=(1000.0, 700.0), t=change))
    assert {*named(report)} == {"t_embedder"} and not report.notes


def test_times_in_two_units_are_a_fault():
    model, right = record("z-image-tiny", times=(1000.0, 700.0))
    key = "transformer.001//input.timestep"
    report = judge(model, right | {key: right[key] / 1000.0})
    assert {row.call for row in report.faults} == {"transformer.001"}


# -- rows of tokens -------------------------------------------------------------------------------


def padded(key, x, at):
    """Return tokens of text and image with 11 more."""
    if "//" in key or x.ndim not in (3, 4) or x.shape[-2] != 13:
        return x
    more = np.random.default_rng(0).standard_normal((*x.shape[:-2], 11, x.shape[-1]))
    parts = (x[..., :at, :], more.astype(np.float32), x[..., at:, :])
    return np.concatenate(parts, axis=-2)


@pytest.mark.parametrize("at", [0, 5, 13])
def test_tokens_that_are_filled_up_are_equal(at):
    model, right = record("krea-2-tiny")
    tensors = {k: padded(k, x, at) for k, x in right.items() if not k.endswith(".bias")}
    assert_equal(judge(model, tensors), "24 rows of tokens for 13")


def test_a_fault_in_tokens_that_are_filled_up_is_named():
    layer = "transformer_blocks.1.norm1"
    model, wrong = record("krea-2-tiny", {layer: lambda call, x: 1.02 * call.compute(x)})
    tensors = {k: padded(k, x, 13) for k, x in wrong.items() if not k.endswith(".bias")}
    (row,) = judge(model, tensors).faults
    assert row.layer == layer and row.cause == "scaled by 1.02"


def cut_caption(x):
    return x[:, :TOKENS]


def flatten_captions(x):
    return np.concatenate([x[0, :5], x[1, :3]])


@pytest.mark.parametrize("change", [cut_caption, flatten_captions])
def test_captions_without_padding_are_equal(change):
    model, right = record("z-image-tiny", mask="unequal")
    tensors = {key: change(x) if "/cap_embedder" in key else x for key, x in right.items()}
    report = judge(model, tensors)
    assert_equal(report, "rows of tokens for 32")
    assert report.padding > judge(model, right).padding


def cut_text(key, x, first=""):
    """Return tokens of FLUX.3 with 3 of the 5 of each text, behind the image if that is first."""
    if "//" in key or x.ndim not in (3, 4) or x.shape[-2] not in (5, 41):
        return x
    text, image = x[..., :3, :], x[..., 5:, :]
    parts = (image, text) if first == "image" else (text, image)
    return np.concatenate(parts, axis=-2)


@pytest.mark.parametrize("first", ["text", "image"])
def test_texts_without_padding_beside_an_image_are_equal(first):
    model, right = record("flux3-tiny", mask="short")
    report = judge(model, {key: cut_text(key, x, first) for key, x in right.items()})
    assert_equal(report, "39 rows of tokens for 41")
    assert any("image first" in note for note in report.notes) == (first == "image")


def test_a_fault_in_texts_without_padding_behind_an_image_is_named():
    layer = "single_transformer_blocks.1.attn.to_q"
    model, wrong = record(
        "flux3-tiny", {layer: lambda call, x: 1.02 * call.compute(x)}, mask="short"
    )
    report = judge(model, {key: cut_text(key, x, "image") for key, x in wrong.items()})
    assert [(row.layer, row.cause) for row in report.faults] == [(layer, "scaled by 1.02")]


def test_a_fault_before_texts_without_padding_is_explained():
    layer = "txt_mode_blocks.0.attn.to_q"
    model, wrong = record(
        "flux3-tiny", {layer: lambda call, x: -2.0 * call.compute(x)}, mask="short"
    )
    report = judge(model, {key: cut_text(key, x) for key, x in wrong.items()})
    assert [(row.layer, row.cause) for row in report.faults] == [(layer, "scaled by -2")]


def test_one_layer_in_the_other_order_without_padding_is_a_fault():
    model, right = record("flux3-tiny", mask="short")
    layer = "single_transformer_blocks.1.attn.to_q"
    key = f"transformer.000/{layer}/output"
    cut = {k: cut_text(k, x) for k, x in right.items()}
    report = judge(model, cut | {key: cut_text(key, right[key], "image")})
    assert layer in named(report)


def test_a_last_layer_of_fewer_tokens_is_equal():
    model, right = record("z-image-tiny")
    last = {k: x[:, :8] for k, x in right.items() if "all_final" in k and x.ndim == 3}
    assert_equal(judge(model, right | last), "8 rows of tokens for 64")
