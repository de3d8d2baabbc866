"""Distances, gates and pooled tokens of text encoders that ports read otherwise, by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import assert_same, attention, call_of, linear, normal, point_of, replay_of

from ldmref.locate.faults import text
from ldmref.trace import build_trace

BIAS_TABLE = "relative_attention_bias"
FAR = (16, 20, 32, 64, 100, 128, 256, 512, 1000, 1024)


def bucket(distance, rows, largest, two_ways=True):
    """Return T5's row of the distance of a key from its query, by the formula of the paper."""
    first = 0
    if two_ways:
        rows //= 2
        first = rows if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = rows // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(largest / exact)
    return first + min(exact + int(share * (rows - exact)), rows - 1)


def buckets(length, rows, largest, sign=1, two_ways=True):
    return np.array([
        [bucket(sign * (key - query), rows, largest, two_ways) for key in range(length)]
        for query in range(length)
    ])  # fmt: skip


def of_table(rows=8, length=40, config=None, **more):
    """Return the rows of a table by other rules."""
    name = more.pop("name", f"block.0.{BIAS_TABLE}")
    point = point_of(name, more.pop("role", "input"), np.zeros((length, length)))
    point.call.parameters = {"table": np.zeros((rows, 2))}
    return dict(text.other_buckets(replay_of(config=config), point))


@pytest.mark.parametrize("rows", [8, 32])
@pytest.mark.parametrize(("config", "largest"), [
    (None, 128), (SimpleNamespace(), 128),
    (SimpleNamespace(relative_attention_max_distance=100), 100),
])  # fmt: skip
def test_rules_of_distances(rows, config, largest):
    found = of_table(rows, config=config)
    expected = {
        "the buckets are those of causal attention": buckets(40, rows, largest, two_ways=False),
        "the distance is that of the query from the key": buckets(40, rows, largest, sign=-1),
    }
    for far in FAR:
        if far != largest:
            words = f"largest distance {far} instead of {largest}"
            expected[words] = buckets(40, rows, far)
    assert [*found] == [*expected]
    assert_same(found, expected)


@pytest.mark.parametrize(("rows", "without"), [(64, 16), (80, 20), (128, 32), (65, 16)])
def test_a_distance_of_the_exact_rows_is_not_tried(rows, without):
    words = {f"largest distance {far} instead of 128" for far in FAR if far not in (128, without)}
    assert {text for text in of_table(rows, 2) if "largest" in text} == words


def test_rows_are_read_at_the_table_alone():
    assert of_table()
    assert not of_table(role="")
    assert not of_table(name=f"{BIAS_TABLE}.norm")
    assert not of_table(name="embed_tokens")


def test_a_bias_of_positions_is_moved_by_the_rule():
    table = normal(0, 8, 2)
    right = buckets(6, 8, 128)
    bias = np.moveaxis(table[right], -1, 0)[None] + normal(1, 3, 1, 1, 6)
    replay = replay_of(tables={BIAS_TABLE: table})
    found = dict(text.other_buckets(replay, point_of("block.0", "bias", bias)))
    words = "the buckets are those of causal attention"
    wrong = np.moveaxis(table[buckets(6, 8, 128, two_ways=False)] - table[right], -1, 0)
    np.testing.assert_allclose(found[words], bias + wrong, atol=1e-12)
    assert len(found) == 11
    assert not dict(text.other_buckets(replay_of(), point_of("block.0", "bias", bias)))


def with_bias(bias, name="a", kind="attention"):
    x = {role: normal(i, 1, 2, 6, 3) for i, role in enumerate(("input", "k", "v"))}
    x |= {} if bias is None else {"bias": bias}
    return call_of(kind, attention, x, name=name)


def test_attention_with_a_bias_of_another_rule():
    table = normal(0, 8, 2)
    right = buckets(6, 8, 128)
    bias = np.moveaxis(table[right], -1, 0)[None]
    replay = replay_of(tables={BIAS_TABLE: table})
    calls = (with_bias(bias), with_bias(bias, "b"), with_bias(None, "c"), with_bias(bias, "d", "x"))
    found = dict(text.other_bias_of_positions(replay, point_of(suspects=calls)))
    assert len(found) == 11
    assert all([*changes] == ["a", "b"] for changes in found.values())
    changes = found["the distance is that of the query from the key"]
    other = np.moveaxis(table[buckets(6, 8, 128, sign=-1)], -1, 0)[None]
    x = calls[0].inputs
    np.testing.assert_allclose(
        changes["b"](calls[1], x), attention(**{**x, "bias": other}), rtol=1e-12
    )
    for one in (point_of(suspects=calls[2:]), point_of()):
        assert not [*text.other_bias_of_positions(replay, one)]
    assert not [*text.other_bias_of_positions(replay_of(), point_of(suspects=calls))]


@pytest.mark.parametrize(("lowest", "masked"), [(-1e4, True), (-9999.0, False)])
def test_a_padding_mask_is_a_bias_that_hides(lowest, masked):
    table = normal(0, 8, 2)
    positions = np.moveaxis(table[buckets(6, 8, 128)], -1, 0)[None]
    bias = np.where(np.arange(6) > 3, lowest, positions)
    call = with_bias(bias)
    replay = replay_of(tables={BIAS_TABLE: table})
    found = dict(text.other_bias_of_positions(replay, point_of(suspects=(call,))))
    assert ("the padding mask is missing" in found) == masked
    if masked:
        got = found["the padding mask is missing"]["a"](call, call.inputs)
        right = attention(**{**call.inputs, "bias": positions})
        np.testing.assert_allclose(got, right, rtol=1e-12)


# -- gates ----------------------------------------------------------------------------------------


def recorded(**arrays):
    tensors = {f"net.000/b.{name}/output": x for name, x in arrays.items()}
    return replay_of(port=build_trace(tensors), call="net.000")


GATE, VALUE = normal(0, 2, 3), normal(1, 2, 3)


SILU_LAYERS = [("w2", "w1", "w3"), ("down_proj", "gate_proj", "up_proj")]


def test_silu_of_the_other_projection():
    for last, first, second in SILU_LAYERS:
        for end in ("silu", last):
            replay = recorded(**{first: GATE, second: VALUE})
            ((words, found),) = text.exchanged_silu(replay, point_of(f"b.{end}"))
            assert words.endswith(f" {second}")
            right = VALUE if end == "silu" else GATE * VALUE / (1.0 + np.exp(-VALUE))
            np.testing.assert_allclose(found, right, rtol=1e-12)
            assert not [*text.exchanged_silu(replay, point_of(f"b.{end}", ""))]
            for one in ({first: GATE}, {second: VALUE}, {}):
                assert not [*text.exchanged_silu(recorded(**one), point_of(f"b.{end}"))]


@pytest.mark.parametrize("last", ["act", "wo"])
def test_gelu_of_the_other_projection(last):
    replay = recorded(wi_0=GATE, wi_1=VALUE)
    ((_, found),) = text.exchanged_gate(replay, point_of(f"b.{last}"))
    gelu = 0.5 * VALUE * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (VALUE + 0.044715 * VALUE**3)))
    np.testing.assert_allclose(found, VALUE if last == "act" else gelu * GATE, rtol=1e-12)
    for one in ({"wi_0": GATE}, {"wi_1": VALUE}, {}):
        assert not [*text.exchanged_gate(recorded(**one), point_of(f"b.{last}"))]


@pytest.mark.parametrize("width", [2, 4])
def test_projections_of_other_sizes_are_not_exchanged(width):
    """A port may have recorded one of them in another shape."""
    other = normal(2, 2, width)
    for first, second in ((GATE, other), (other, GATE)):
        gated = recorded(wi_0=first, wi_1=second)
        silu = recorded(w1=first, w3=second)
        for last in ("act", "wo"):
            assert not [*text.exchanged_gate(gated, point_of(f"b.{last}"))]
        for last in ("silu", "w2"):
            assert not [*text.exchanged_silu(silu, point_of(f"b.{last}"))]


def test_projections_that_are_exchanged_with_their_parameters():
    x = {"input": normal(2, 2, 4)}

    def layer(name, kind="linear"):
        return call_of(kind, linear, x, {"weight": normal(len(name), 3, 4)}, name)

    calls = (layer("b.wi_0"), layer("b.wi_1"), layer("longer.wi_0"), layer("longer.wi_1", "other"))
    ((words, changes),) = text.exchanged_projections(replay_of(), point_of(suspects=calls))
    assert words.endswith(" in b")
    assert [*changes] == ["b.wi_0", "b.wi_1"]
    given = {**x, "weight": np.zeros((3, 4))}
    other = normal(0, 3, 4)
    calls[1].parameters["weight"][:] = other
    np.testing.assert_allclose(changes["b.wi_0"](calls[0], given), x["input"] @ other.T)


# -- pooled tokens --------------------------------------------------------------------------------

IDS = np.array([[1, 7, 9, 9, 0], [1, 9, 3, 9, 2]])
STATES = normal(3, 2, 5, 4)
CONFIG = SimpleNamespace(model_type="t5", eos_token_id=9)
AT = {
    "the last token": (4, 4),
    "the last end token": (3, 3),
    "the first token": (0, 0),
    "the token before the end token": (1, 0),
    "the token after the end token": (3, 2),
}


def pooled(weight=None, name="", role="", part=1, ids=IDS, recent=(("norm", STATES),), n=2):
    tables = {} if weight is None else {"text_projection": weight}
    replay = replay_of(ids=ids, config=CONFIG, recent=[*recent], tables=tables)
    return dict(text.other_pooling(replay, point_of(name, role, np.zeros((n, 4)), part=part)))


def test_tokens_that_are_pooled():
    found = dict(text.pool_elsewhere(CONFIG, IDS, STATES))
    expected = {
        f"pooled at {words} instead of the first end token": STATES[[0, 1], [*tokens]]
        for words, tokens in AT.items()
    }
    words = "pooled at the mean of all tokens instead of the first end token"
    expected[words] = (STATES[:, 0] + STATES[:, 1] + STATES[:, 2] + STATES[:, 3] + STATES[:, 4]) / 5
    assert_same(found, expected)
    assert_same(pooled(), expected)
    assert_same(pooled(name="text_projection", role="input", part=0), expected)


def test_the_last_states_of_the_text_are_pooled():
    recent = [(name, i * STATES) for i, name in enumerate(("a", "b", "c", "norm"), -2)]
    assert_same(pooled(recent=[*recent, ("flat", STATES[:, 0])]), pooled())


@pytest.mark.parametrize("rows", [1, 3, 4, 7])
def test_pooled_tokens_are_projected(rows):
    weight = normal(4, rows, 4)
    plain = pooled()
    expected = {words: np.einsum("nd,ed->ne", x, weight) for words, x in plain.items()}
    assert_same(pooled(weight), expected)
    assert_same(pooled(weight, "text_projection", "input"), plain)


@pytest.mark.parametrize("columns", [3, 5])
def test_a_projection_of_states_of_another_width_is_not_applied(columns):
    assert not pooled(normal(4, 4, columns))
    assert pooled(normal(4, 4, columns), "text_projection", "input")


@pytest.mark.parametrize("change", [
    {"ids": None},
    {"n": 3},
    {"part": 0},
    {"name": "norm"},
    {"name": "text_projection"},
    {"recent": ()},
    {"recent": (("norm", STATES[:, :4]),)},
    {"recent": (("norm", STATES[0]), ("norm", STATES[None]))},
])  # fmt: skip
def test_other_arrays_are_not_pooled(change):
    assert pooled()
    assert not pooled(**change)
