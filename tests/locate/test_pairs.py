"""Two faults in one part are named together, and a pair is named only if it explains the port."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_ports import layers_of, make_model, run_port
from test_transformer_faults import BLOCK, SINGLE, computed_from

from ldmref.locate import diff_traces
from ldmref.locate.causes.pairs import MOST_PAIRS, Tried, likely_pairs
from ldmref.locate.faults.activations import exact_gelu
from ldmref.locate.faults.hypothesis import Hypothesis
from ldmref.trace import build_trace

# layers within blocks, which these ports do not record
PARTS = ("feed_forward", "project_gelu", "geglu", "adaptive_norm", "joint_attention", "mlp",
         "self_attention", "cross_attention")  # fmt: skip
RESNET = "down_blocks.0.resnets.0"
SPATIAL = "mid_block.attentions.0.transformer_blocks.0"
NO_BIAS = computed_from(bias=lambda b: None)
GELU = "gelu_tanh"


def eps(value):
    return computed_from(eps=lambda _: value)


def swapped(call, x):
    return call.compute({**x, "input": x["k"], "k": x["input"]})


def exchanged(call, x):
    width = call.parameters["weight"].shape[1]
    parts = np.split(call.compute(x), call.parameters["weight"].shape[0] // width, axis=-1)
    return np.concatenate([parts[1], parts[0], *parts[2:]], axis=-1)


PAIRS = [  # the model, the block, its wrong layers, and the words of both
    ("tiny", RESNET, {f"{RESNET}.norm1": eps(1e-3), f"{RESNET}.conv2": NO_BIAS},
     {"eps 0.001 instead of 1e-05 in", "bias is missing in"}),
    ("tiny", RESNET, {f"{RESNET}.norm1": eps(1e-3), f"{RESNET}.norm2": eps(1e-2)},
     {"eps 0.001 instead of 1e-05 in", "eps 0.01 instead of 1e-05 in"}),
    ("tiny", SPATIAL, {f"{SPATIAL}.norm1": eps(1e-3), f"{SPATIAL}.attn1.attention": swapped},
     {"eps 0.001 instead of 1e-05 in", "q and k are swapped in"}),
    ("sd3-tiny", BLOCK, {f"{BLOCK}.norm1.layer_norm": eps(1e-2), f"{BLOCK}.attn.to_out.0": NO_BIAS},
     {"eps 0.01 instead of 1e-06 in", "bias is missing in"}),
    ("sd3-tiny", BLOCK, {f"{BLOCK}.attn.norm_q": eps(1e-2),
                         f"{BLOCK}.ff.net.0.{GELU}": lambda c, x: exact_gelu(x["input"])},
     {"eps 0.01 instead of 1e-06 in", "exact GELU instead of tanh GELU in"}),
    ("sd3-tiny", BLOCK, {f"{BLOCK}.norm1.linear": exchanged, f"{BLOCK}.attn.to_out.0": NO_BIAS},
     {"shift and scale are exchanged in", "bias is missing in"}),
    ("flux-tiny", BLOCK,
     {f"{BLOCK}.norm1_context.layer_norm": eps(1e-2), f"{BLOCK}.attn.to_add_out": NO_BIAS},
     {"eps 0.01 instead of 1e-06 in", "bias is missing in"}),
    ("flux-tiny", SINGLE, {f"{SINGLE}.norm.layer_norm": eps(1e-2), f"{SINGLE}.proj_out": NO_BIAS},
     {"eps 0.01 instead of 1e-06 in", "bias is missing in"}),
]  # fmt: skip


def judge(name, wrong):
    """Return the rows of a port that records its blocks, and nothing within them."""
    model = make_model(name)
    network = "unet" if name == "tiny" else "transformer"
    kinds = {call.kind for call in layers_of(model, network).values()}
    tensors = run_port(model, wrong, network, (*kinds, *PARTS))
    return diff_traces(build_trace(tensors), model)


def names(wrong):
    """Return the layers that are wrong, as the locator may call them."""
    return {layer.removesuffix(".layer_norm") for layer in wrong}


@pytest.mark.parametrize(("name", "block", "wrong", "words"), PAIRS)
def test_two_faults_of_a_block_are_named(name, block, wrong, words):
    both = [row for row in judge(name, wrong).faults if ", and " in row.cause]
    assert {row.layer for row in both} == {block}
    cause = both[0].cause
    first, second = cause.split(", and ")
    assert {text.partition(" in ")[0] + " in" for text in (first, second)} == words
    for layer in names(wrong):
        assert layer in cause
    for row in both:
        assert row.explained is not None and row.explained < 1e-5 < row.error


@pytest.mark.parametrize("name", ["tiny", "sd3-tiny", "flux-tiny"])
def test_no_pair_is_named_that_does_not_explain_the_port(name):
    """One of the two faults is in no table."""
    layer, bias = {
        "tiny": (f"{RESNET}.norm1", f"{RESNET}.conv2"),
        "sd3-tiny": (f"{BLOCK}.norm1.layer_norm", f"{BLOCK}.attn.to_out.0"),
        "flux-tiny": (f"{SINGLE}.norm.layer_norm", f"{SINGLE}.proj_out"),
    }[name]

    def unknown(call, x):
        y = call.compute(x)
        return 1.3 * y + 0.1 * np.sin(7.0 * y)

    report = judge(name, {layer: unknown, bias: NO_BIAS})
    assert report.faults and not any(", and " in row.cause for row in report.faults)


@pytest.mark.parametrize(("name", "block", "wrong", "words"), PAIRS)
def test_one_fault_is_named_alone(name, block, wrong, words):
    for layer, change in wrong.items():
        causes = [row.cause for row in judge(name, {layer: change}).faults if row.layer == block]
        assert len(set(causes)) == 1 and causes[0] and ", and " not in causes[0]


def test_two_faults_of_one_operation_are_named():
    """Both are of the same layer, whose changes are composed."""
    model = make_model("tiny")

    def wrong(call, x):
        return call.compute({**x, "eps": 1e-2, "weight": np.ones_like(x["weight"])})

    tensors = run_port(model, {f"{RESNET}.norm1": wrong})
    (row,) = diff_traces(build_trace(tensors), model).faults
    assert row.layer == f"{RESNET}.norm1"
    assert set(row.cause.split(", and ")) == {"eps 0.01 instead of 1e-05", "weight is missing"}


def test_the_search_is_bounded():
    rng = np.random.default_rng(0)
    tried = [Tried(Hypothesis(str(i)), 1.0, rng.standard_normal(8)) for i in range(60)]
    right = tried[17].effect + tried[41].effect
    pairs = [(a.hypothesis.text, b.hypothesis.text) for a, b in likely_pairs(right, tried)]
    assert len(pairs) <= 2 * MOST_PAIRS and ("17", "41") in pairs
    assert not [*likely_pairs(right, tried[:1])]


def test_arrays_and_equal_arguments_cannot_be_joined():
    given = Hypothesis("a", array=np.zeros(2))
    argued = Hypothesis("b", arguments={"x": 1})
    assert given.joined(argued) is None and argued.joined(argued) is None
