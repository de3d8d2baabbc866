"""Faults of what is joined, added, multiplied or masked between layers are named with their words.

Each is made in a port in NumPy; `real_faults.py` has those of diffusers' pipelines.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy_ports import layers_of, make_model, run_port
from test_locate_layers import MID

from ldmref.locate import diff_traces
from ldmref.locate.faults.activations import exact_gelu
from ldmref.locate.faults.attention import attend, with_padding_mask
from ldmref.locate.faults.table import BETWEEN, BLOCK, FAULTS
from ldmref.models.unet import run_encoder
from ldmref.trace import build_trace

TEXT = "text_model.encoder.layers.0.self_attn.attention"
EMBEDDINGS = "text_model.embeddings"
GEGLU = f"{MID}.ff.net.0"


@pytest.fixture(scope="module")
def model():
    return make_model("tiny")


def judge(model, tensors):
    report = diff_traces(build_trace(tensors), model)
    return {(row.layer, row.kind): row for row in report.faults}


def test_another_skip_connection_is_named(model, monkeypatch):
    import ldmref.models.unet as module

    def exchanged(*args, **kwargs):
        x, skips = run_encoder(*args, **kwargs)
        assert skips[0].shape == skips[1].shape
        return x, [skips[1], skips[0], *skips[2:]]

    with monkeypatch.context() as patch:
        patch.setattr(module, "run_encoder", exchanged)
        tensors = run_port(model)
    found = {key: row.cause for key, row in judge(model, tensors).items()}
    words = "the skip connection is the output of {} instead of {}"
    first, second = "conv_in", "down_blocks.0.attentions.0"
    assert found == {
        (f"up_blocks.1.resnets.{i}", "wiring"): words.format(*pair)
        for i, pair in enumerate([(first, second), (second, first)])
    }


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (lambda i, n: np.minimum(i + 1, n - 1), "positions are larger by one"),
        (lambda i, n: np.maximum(i - 1, 0), "positions are smaller by one"),
        (lambda i, n: i[::-1], "positions are in reverse order"),
    ],
)
def test_other_positions_are_named(model, shift, words):
    table = model.params["text_encoder"]["text_model"]["embeddings"]["position_embedding"]["weight"]

    def wrong(call, x):
        right = call.compute({role: x[role] for role in call.inputs})
        i = np.arange(right.shape[1])
        return right - table[i] + table[shift(i, len(table))]

    tensors = run_port(model, {EMBEDDINGS: wrong}, "text_encoder")
    found = judge(model, tensors)
    assert list(found) == [(EMBEDDINGS, "own")]
    assert words in found[EMBEDDINGS, "own"].cause


@pytest.mark.parametrize("recorded", ["all", "without activations"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda a, b, even, odd: exact_gelu(a) * b, "GELU is applied to the value instead"),
        (lambda a, b, even, odd: exact_gelu(a) * exact_gelu(b), "GELU is applied to value and"),
        (lambda a, b, even, odd: even * exact_gelu(odd), "gate and value are interleaved"),
    ],
)
def test_gelu_of_the_wrong_half_is_named(model, make, words, recorded):
    projection = model.params["unet"]
    for part in f"{GEGLU}.proj".split("."):
        projection = projection[part]

    def wrong(call, x):
        h = x["input"] @ projection["weight"].T + projection["bias"]
        return make(*np.split(h, 2, axis=-1), h[..., ::2], h[..., 1::2])

    tensors = run_port(model, {GEGLU: wrong})
    call = f"unet.000/{GEGLU}"
    h = tensors[f"{call}/input"] @ projection["weight"].T + projection["bias"]
    tensors |= {f"{call}.proj/input": tensors[f"{call}/input"], f"{call}.proj/output": h}
    if recorded == "all":
        gate = np.split(h, 2, axis=-1)[1]
        tensors |= {f"{call}.gelu/input": gate, f"{call}.gelu/output": exact_gelu(gate)}
    found = judge(model, tensors)
    assert list(found) == [(GEGLU, "own")]
    assert words in found[GEGLU, "own"].cause


def test_an_activation_that_reads_the_value_is_named(model):
    tensors = run_port(model)
    value = np.split(tensors[f"unet.000/{GEGLU}.proj/output"], 2, axis=-1)[0]
    tensors |= {f"unet.000/{GEGLU}.gelu/input": value}
    row = judge(model, tensors)[f"{GEGLU}.gelu", "wiring"]
    assert row.cause == "GELU is applied to the value instead of the gate"


@pytest.mark.parametrize("causal", [True, False])
def test_a_padding_mask_is_named(model, causal):
    def prompts(call):
        ids = np.array([[7, 3, 5, 5, 5, 5, 5, 5], [7, 3, 2, 1, 4, 5, 5, 5]])
        return np.concatenate([ids, np.full((2, 8), 5)], axis=1)

    port_ids = prompts(None)
    padding = np.array([[0] * 3 + [1] * 13, [0] * 6 + [1] * 10], bool)

    def wrong(call, x):
        q = x["input"]
        return attend(q, x["k"], x["v"], q.shape[-1] ** -0.5, causal, padding=padding)

    tensors = run_text(model, port_ids, {TEXT: wrong})
    found = judge(model, tensors)
    assert list(found) == [(TEXT, "own")]
    words = "that should not be there" if causal else "instead of the causal one"
    assert found[TEXT, "own"].cause == f"a padding mask {words}"


def run_text(model, ids, wrong=None):
    """Return the arrays of a port that encodes these tokens."""
    return run_port(model, wrong, "text_encoder", given={"ids": ids})


def test_texts_without_padding_have_no_mask(model):
    """The last token alone is no padding, and a mask of nothing is no fault."""
    ids = np.tile(np.arange(16), (2, 1))
    assert not judge(model, run_text(model, ids))
    (call,) = [c for n, c in layers_of(model, "text_encoder").items() if n == TEXT]
    first, *_ = with_padding_mask(call, ids, model.config.text_encoder)
    x = {**call.parameters, **call.inputs}
    np.testing.assert_allclose(first.change(call, x), call.compute(x), rtol=1e-4, atol=1e-6)


def test_each_has_a_source():
    known = [fault for fault in FAULTS if fault.applies_to in (BETWEEN, BLOCK)]
    assert known and all(fault.source and fault.variants.__doc__ for fault in known)
