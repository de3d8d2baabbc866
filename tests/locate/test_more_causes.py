"""Faults of text encoders, positions, streams, timesteps and scales: each is named by its cause."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_ports import make_model, run_port

from ldmref.families.sd3 import network as sd3
from ldmref.locate import diff_traces
from ldmref.locate.faults.attention import end_ids
from ldmref.locate.recorded.precision import round_to
from ldmref.locate.report import describe, summary
from ldmref.math.embedding import timestep_embedding
from ldmref.models import clip, t5
from ldmref.models.transformer_layers import tanh_gelu
from ldmref.trace import build_trace

FORMATS = ("float32", "bfloat16")
BLOCK = "transformer_blocks.0"
T5 = "text_encoder_3"
FEED = f"{T5}/encoder.block.1.layer.1.DenseReluDense"
TABLE = f"{T5}/encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
TIMES = np.array([437.0, 999.0], np.float32)
MODELS: dict = {}


def model_of(name):
    if name not in MODELS:
        MODELS[name] = make_model(name)
    return MODELS[name]


def judge(tensors, name="sd3-tiny", dtype="float32"):
    return diff_traces(build_trace(tensors), model_of(name), dtype=dtype)


def causes(report):
    """Return the causes of all faults by layer."""
    return {row.layer: row.cause for row in report.faults}


# -- timesteps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bfloat16", "float16"])
@pytest.mark.parametrize(("name", "network"), [("tiny", "unet"), ("sd3-tiny", "transformer")])
def test_timesteps_that_are_rounded_are_named(name, network, form):
    times = 1e3 * TIMES / 999 + 0.3  # float16 holds whole numbers to 2048
    layer = "time_proj" if network == "unet" else "time_text_embed.time_proj"
    wrong = {layer: lambda call, x: call.compute({**x, "input": round_to(x["input"], form)})}
    given = {"t": times.astype(np.float32)}
    report = judge(run_port(model_of(name), wrong, network, given=given), name)
    assert causes(report) == {layer: f"the timestep is rounded to {form}"}


def test_an_embedding_of_timesteps_in_bfloat16_is_named():
    def wrong(call, x):
        frequencies = np.exp(-np.log(10000.0) * np.arange(128) / 128)
        angles = round_to(x["input"][:, None] * frequencies, "bfloat16")
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)

    layer = "time_text_embed.time_proj"
    tensors = run_port(model_of("sd3-tiny"), {layer: wrong}, "transformer", given={"t": TIMES})
    assert causes(judge(tensors)) == {layer: "the angles of the timestep are rounded to bfloat16"}
    right = timestep_embedding(TIMES, 256)
    np.testing.assert_allclose(tensors[f"transformer.000/{layer}/output"], right, atol=2.0)


# -- T5 -------------------------------------------------------------------------------------------


def encode(dtype="float32", hidden=(), wrong=None):
    ids = np.random.default_rng(0).integers(3, 500, (2, 40))
    end = model_of("sd3-tiny").config.text_encoder_3.eos_token_id
    ids[0, 25], ids[0, 26:], ids[1, -1] = end, 0, end
    return run_port(model_of("sd3-tiny"), wrong, T5, hidden, {"ids": ids}, dtype)


def one_way(distances, buckets, largest):
    """Compute transformers' `_relative_position_bucket(..., bidirectional=False)`."""
    torch = pytest.importorskip("torch")
    attention = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention
    found = attention._relative_position_bucket(
        torch.from_numpy(distances), bidirectional=False, num_buckets=buckets, max_distance=largest
    )
    return found.numpy()


RULES = {
    "one-way": (one_way, "the buckets are those of causal attention"),
    "largest": (lambda d, n, m: find_buckets(d, n, 64), "largest distance 64 instead of 128"),
    "reversed": (
        lambda d, n, m: find_buckets(-d, n, m),
        "the distance is that of the query from the key",
    ),
}
find_buckets = t5.find_buckets


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("recorded", ["table", "bias", "attention"])
@pytest.mark.parametrize(("rule", "words"), RULES.values(), ids=RULES)
def test_other_distances_are_named(rule, words, recorded, dtype, monkeypatch):
    hidden = () if recorded == "table" else ("embedding",)
    with monkeypatch.context() as patch:
        patch.setattr(t5, "find_buckets", rule)
        tensors = encode(dtype, hidden)
    if recorded == "attention":
        tensors = {key: x for key, x in tensors.items() if not key.endswith("bias")}
    report = judge(tensors, dtype=dtype)
    assert report.faults
    if recorded == "table":
        assert causes(report) == {TABLE.partition("/")[2]: words}
    elif dtype == "float32":
        assert {row.cause.partition(" in ")[0] for row in report.faults} == {words}


def feed_forward(exchange):
    """Return what a port records of one gated layer, with GELU of the other projection."""
    tensors = {key: x for key, x in encode().items() if key.startswith(f"{FEED}.")}
    if exchange:
        first, second = (tensors[f"{FEED}.wi_{i}/output"] for i in range(2))
        tensors[f"{FEED}.act/input"] = second
        tensors[f"{FEED}.act/output"] = tanh_gelu(second.copy())
        tensors[f"{FEED}.wo/input"] = tanh_gelu(second.copy()) * first
        weight = model_of("sd3-tiny").params[T5].encoder.block["1"].layer["1"].DenseReluDense.wo
        tensors[f"{FEED}.wo/output"] = tensors[f"{FEED}.wo/input"] @ weight.weight.T
    return tensors


def test_an_exchanged_gate_is_named():
    assert judge(feed_forward(False)).equal
    found = causes(judge(feed_forward(True)))
    words = "gate and value are exchanged: GELU is applied to wi_1"
    layer = FEED.partition("/")[2]
    assert found == {f"{layer}.act": words, f"{layer}.wo": words}


def test_exchanged_projections_are_named_without_their_layers():
    model = make_model("sd3-tiny")
    gated = model.params[T5].encoder.block["1"].layer["1"].DenseReluDense
    gated["wi_0"], gated["wi_1"] = gated["wi_1"], gated["wi_0"]
    tensors = {
        key: x for key, x in run_port(model, network=T5).items() if key.startswith(f"{FEED}/")
    }
    layer = FEED.partition("/")[2]
    words = f"gate and value are exchanged: GELU is applied to wi_1 in {layer}"
    assert causes(judge(tensors)) == {layer: words}


# -- CLIP -----------------------------------------------------------------------------------------


def last_token(ops, config, ids, states):
    return states[:, -1]


def mean_of_tokens(ops, config, ids, states):
    return states.mean(axis=1)


@pytest.mark.parametrize("recorded", ["all", "pooled"])
@pytest.mark.parametrize(
    ("pool", "words"), [(last_token, "the last token"), (mean_of_tokens, "the mean of all tokens")]
)
def test_another_pooling_is_named(pool, words, recorded, monkeypatch):
    model = model_of("sd3-tiny")
    end = model.config.text_encoder.eos_token_id
    ids = np.random.default_rng(0).integers(3, 500, (2, 9))
    ids[:, 6:] = 511 if end == 2 else end
    assert end_ids(model.config.text_encoder, ids).tolist() == [ids[0, 6]] * 2
    with monkeypatch.context() as patch:
        patch.setattr(clip, "pool_end_token", pool)
        tensors = run_port(model, network="text_encoder", given={"ids": ids})
    layer = "text_projection"
    if recorded == "pooled":
        tensors["text_encoder//output.pooled"] = tensors[f"text_encoder/{layer}/output"]
        tensors = {key: x for key, x in tensors.items() if layer not in key}
    found = causes(judge(tensors))
    at = layer if recorded == "all" else ""
    assert found == {at: f"pooled at {words} instead of the first end token"}


def test_a_padding_mask_of_t5_hides_no_end_token():
    def masked(call, x):
        hidden = np.zeros((2, 1, 1, 40))
        hidden[0, ..., 26:] = 1e9
        return call.compute({**x, "bias": x["bias"] - hidden})

    layer = "encoder.block.0.layer.0.SelfAttention.attention"
    report = judge(encode(wrong={layer: masked}))
    assert causes(report) == {layer: "a padding mask that should not be there"}


# -- transformers ---------------------------------------------------------------------------------


def first_rows(grid, rows, columns):
    return grid[:rows, :columns]


def first_row(grid, rows, columns):
    left = (len(grid) - columns) // 2
    return grid[:rows, left : left + columns]


def exchanged(grid, rows, columns):
    side = len(grid)
    top, left = (side - rows) // 2, (side - columns) // 2
    return grid.swapaxes(0, 1)[top : top + rows, left : left + columns]


@pytest.mark.parametrize(
    ("crop", "words"),
    [
        (first_rows, "the positions are those of the first rows and columns of the table"),
        (first_row, "the positions are cropped from the first row of the table"),
        (exchanged, "rows and columns are exchanged in the table of positions"),
    ],
)
def test_other_positions_of_sd3_are_named(crop, words, monkeypatch):
    model = model_of("sd3-tiny")

    def wrong(ops, table, patches):
        side = int(np.sqrt(table.shape[1]))
        part = crop(table.reshape(side, side, -1), *patches.shape[2:])
        return part.reshape(1, -1, table.shape[2])

    with monkeypatch.context() as patch:
        patch.setattr(sd3, "crop_positions", wrong)
        tensors = run_port(model, network="transformer")
    (row,) = judge(tensors).faults
    assert row.layer == "pos_embed" and row.cause.startswith(words)
    sums = ("pos_embed", "pos_embed.add", "transformer_blocks.0", "transformer_blocks.0.norm1")
    alone = {k: x for k, x in tensors.items() if k.split("/")[1] not in sums}
    (row,) = judge(alone).faults  # a port that adds the positions in no layer of its own
    assert row.layer == "transformer_blocks.0.norm1.layer_norm" and row.cause.startswith(words)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", ["sd3-tiny", "flux-tiny"])
def test_streams_that_are_split_in_the_other_order_are_named(name, dtype):
    shift = -5 if name == "sd3-tiny" else 5  # there are 5 tokens of text
    layer = f"{BLOCK}.attn.attention"
    wrong = {layer: lambda call, x: np.roll(call.compute(x), shift, axis=2)}
    tensors = run_port(model_of(name), wrong, "transformer", dtype=dtype)
    key = f"transformer.000/{layer}/output"
    tensors[key] = np.roll(tensors[key], -shift, axis=2)  # it is right before the split
    found = causes(judge(tensors, name, dtype))
    words = f"image and text are split in the other order after {layer}"
    assert found == {f"{BLOCK}.attn.to_out.0": words, f"{BLOCK}.attn.to_add_out": words}


@pytest.mark.parametrize("name", ["sd3-tiny", "flux-tiny"])
def test_exchanged_keys_and_values_are_named(name):
    layer = f"{BLOCK}.attn.attention"
    wrong = {layer: lambda call, x: call.compute({**x, "k": x["v"], "v": x["k"]})}
    tensors = run_port(model_of(name), wrong, "transformer")
    roles = [f"transformer.000/{layer}/input.{role}" for role in "kv"]
    tensors[roles[0]], tensors[roles[1]] = tensors[roles[1]], tensors[roles[0]]
    report = judge(tensors, name)
    assert {row.cause for row in report.faults} == {"k and v are swapped"}
    assert {row.kind for row in report.faults} == {"wiring"} and len(report.faults) == 2


# -- scales ---------------------------------------------------------------------------------------


def by_rows(call, x):
    factors = np.linspace(50.0, 400.0, call.parameters["weight"].shape[0])
    return (call.compute(x) - x["bias"]) * factors + x["bias"]


SCALES = {
    "one": (
        lambda call, x: 287.0 * (call.compute(x) - x["bias"]) + x["bias"],
        "the product is scaled by 287, and the bias is not: a scale of the weights is missing",
    ),
    "rows": (by_rows, "the rows of the product are scaled, by 50 to 400: scales of the weights"),
}


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(("wrong", "words"), SCALES.values(), ids=SCALES)
def test_a_forgotten_scale_is_named(wrong, words, dtype):
    layer = f"{BLOCK}.ff.net.2"
    tensors = run_port(model_of("flux-tiny"), {layer: wrong}, "transformer", dtype=dtype)
    (row,) = judge(tensors, "flux-tiny", dtype).faults
    assert row.layer == layer
    if dtype == "float32":
        assert row.cause.startswith(words)
    assert "missing" in row.cause and row.explained <= row.allowed


def test_what_only_reduces_an_error_is_a_hint_and_no_cause():
    """A bias that is not scaled leaves far more than rounding: the scale does not explain it."""

    def wrong(call, x):
        return 287.0 * call.compute(x) + 3.0 * np.sin(9.0 * x["bias"])

    layer = f"{BLOCK}.ff.net.2"
    report = judge(run_port(model_of("flux-tiny"), {layer: wrong}, "transformer"), "flux-tiny")
    (row,) = report.faults
    assert row.cause == "" and row.explained is None and row.to_dict()["explained"] is None
    assert row.note.startswith("nearest to ") and "which leaves" in row.note
    assert summary(report).endswith("0 explained") and row.note in describe(row)
