"""What each known fault of text encoders, and of a network's arguments, computes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import assert_same, attention, call_of, linear, normal, point_of, replay_of

from ldmref.locate.faults import text
from ldmref.locate.faults.whole import argument_changes, hidden_states
from ldmref.models.config import TextConfig
from ldmref.models.presets import preset
from ldmref.models.t5 import find_buckets
from ldmref.models.text_kind import kind_of
from ldmref.trace import build_trace

# -- text encoders --------------------------------------------------------------------------------

ROWS = 8
DISTANCE = np.arange(5)[None] - np.arange(5)[:, None]


def right_rules(largest=128, distance=DISTANCE):
    """Return T5's rows of a table by each rule, of five tokens or of other distances."""
    rules = {
        "the buckets are those of causal attention": find_buckets(
            np.minimum(distance, 0), 2 * ROWS, largest
        ),
        "the distance is that of the query from the key": find_buckets(-distance, ROWS, largest),
    }
    for far in {16, 20, 32, 64, 100, 128, 256, 512, 1000, 1024} - {largest, ROWS // 4}:
        text = f"largest distance {far} instead of {largest}"
        rules[text] = find_buckets(distance, ROWS, far)
    return rules


@pytest.mark.parametrize("length", [1, 5, 40])
def test_rows_of_a_table_by_other_rules(length):
    """Far tokens share rows, so that the rules differ in how many there are."""
    table = normal(0, ROWS, 3)
    tokens = np.arange(length)
    distance = tokens[None] - tokens[:, None]
    point = point_of("a.relative_attention_bias", "input", find_buckets(distance, ROWS, 128))
    point.call.parameters = {"table": table}
    found = dict(text.other_buckets(replay_of(tables={text.TABLE: table}), point))
    assert_same(found, right_rules(distance=distance))


def test_other_buckets_of_distances():
    table = normal(0, ROWS, 3)
    config = SimpleNamespace(relative_attention_max_distance=100)
    right = find_buckets(DISTANCE, ROWS, 100)
    call = SimpleNamespace(
        name="a.relative_attention_bias", kind="embedding", parameters={"table": table}
    )
    point = point_of(call.name, "input", right)
    point.call.parameters = call.parameters
    replay = replay_of(tables={text.TABLE: table}, config=config)
    assert_same(dict(text.other_buckets(replay, point)), right_rules(100))
    assert "largest distance 128 instead of 100" in right_rules(100)
    bias = table[right].transpose(2, 0, 1)[None] + 5.0
    found = dict(text.other_buckets(replay, point_of("b", "bias", bias)))
    expected = {
        words: table[rule].transpose(2, 0, 1)[None] + 5.0
        for words, rule in right_rules(100).items()
    }
    assert_same(found, expected)
    assert not [*text.other_buckets(replay, point_of("b", "input", bias))]
    assert not [*text.other_buckets(replay, point_of("b", "bias", bias[0]))]
    plain = replay_of(tables={text.TABLE: table})
    assert set(dict(text.other_buckets(plain, point_of("b", "bias", bias)))) == set(right_rules())


def test_attention_with_other_buckets():
    table = normal(0, ROWS, 3)
    positions = table[find_buckets(DISTANCE, ROWS, 128)].transpose(2, 0, 1)[None]
    mask = np.where(np.arange(5) > 3, -1e9, 0.0)
    q = {"input": normal(1, 1, 3, 5, 4), "k": normal(2, 1, 3, 5, 4), "v": normal(3, 1, 3, 5, 4)}
    replay = replay_of(tables={text.TABLE: table})
    for masked in (False, True):
        bias = positions + (mask if masked else 0.0)
        call = call_of("attention", attention, {**q, "bias": bias})
        point = point_of(suspects=(call_of("linear", linear, {}), call))
        found = {
            words: changes[call.name](call, call.inputs)
            for words, changes in text.other_bias_of_positions(replay, point)
        }
        expected = {
            words: attention(
                **q, bias=table[rule].transpose(2, 0, 1)[None] + (mask if masked else 0.0)
            )
            for words, rule in right_rules().items()
        }
        if masked:
            expected["the padding mask is missing"] = attention(**q, bias=positions)
        assert found.keys() == expected.keys()
        for words, right in expected.items():
            np.testing.assert_allclose(found[words], right, rtol=1e-6, atol=1e-7, err_msg=words)
    assert not [*text.other_bias_of_positions(replay_of(), point)]
    others = (
        call_of("attention", attention, q, name="plain"),
        call_of("linear", linear, {"input": q["input"], "bias": positions}, name="linear"),
    )
    assert not [*text.other_bias_of_positions(replay, point_of(suspects=others))]
    mixed = [*text.other_bias_of_positions(replay, point_of(suspects=(*others, call)))]
    assert {name for _, changes in mixed for name in changes} == {call.name}


def test_tokens_that_are_pooled_instead_of_the_end():
    states = normal(0, 2, 5, 3)
    ids = np.array([[1, 7, 9, 9, 0], [9, 3, 9, 1, 2]])
    weight = normal(1, 4, 3)
    config = SimpleNamespace(model_type="t5", eos_token_id=9)
    picked = {
        "the last token": (4, 4),
        "the last end token": (3, 2),
        "the first token": (0, 0),
        "the token before the end token": (1, 0),
        "the token after the end token": (3, 1),
    }
    pooled = {words: np.stack([states[0, i], states[1, j]]) for words, (i, j) in picked.items()}
    pooled["the mean of all tokens"] = states.mean(axis=1)
    expected = {
        f"pooled at {words} instead of the first end token": x for words, x in pooled.items()
    }
    recent = [("early", 0 * states), ("norm", states), ("flat", states[:, 0]), ("ids", 1.0 * ids)]
    replay = replay_of(ids=ids, config=config, recent=recent, tables={text.PROJECTION: weight})
    computed = states[[0, 1], [2, 0]]
    into = point_of("text_projection", "input", computed)
    assert_same(dict(text.other_pooling(replay, into)), expected)
    out = point_of("", "", computed @ weight.T, part=1)
    projected = {words: x @ weight.T for words, x in expected.items()}
    assert_same(dict(text.other_pooling(replay, out)), projected)
    bare = replay_of(ids=ids, config=config, recent=recent)
    assert_same(dict(text.other_pooling(bare, out)), expected)
    for point in (
        point_of("", "", computed, part=0),
        point_of("text_projection", "", computed),
        point_of("x", "input", computed),
        point_of("text_projection", "input", states),
        point_of("text_projection", "input", computed[:1]),
    ):
        assert not [*text.other_pooling(replay, point)]
    assert not [*text.other_pooling(replay_of(ids=ids, config=config), into)]
    end = replay_of(ids=np.array([[1, 2, 3, 4, 9]] * 2), config=config, recent=recent)
    after = dict(text.other_pooling(end, into))[
        "pooled at the token after the end token instead of the first end token"
    ]
    assert np.array_equal(after, states[:, 4])  # there is none after it


@pytest.mark.parametrize(
    ("names", "last"),
    [(("w1", "w3"), "w2"), (("gate_proj", "up_proj"), "down_proj"), (("gate", "up"), "down")],
)
def test_a_silu_of_the_other_projection(names, last):
    gate, value = normal(0, 2, 3), normal(1, 2, 3)
    outputs = dict(zip((f"a.{names[0]}", f"model.a.{names[1]}"), (gate, value), strict=True))
    arrays = {f"qwen.000/{layer}/output": x for layer, x in outputs.items()}
    replay = replay_of(port=build_trace(arrays), call="qwen.000")
    words = text.SWAPPED.format(names[1])
    right = gate * value / (1.0 + np.exp(-value))
    assert_same(dict(text.exchanged_silu(replay, point_of(f"a.{last}"))), {words: right})
    assert not [*text.exchanged_silu(replay, point_of(f"a.{last}", ""))]
    assert not [*text.exchanged_silu(replay, point_of("a.other"))]
    assert not [*text.exchanged_silu(replay, point_of(f"b.{last}"))]
    rows = {f"a.{name}": np.ones((1, 3)) * n for n, name in enumerate(names)}  # as expected
    followed = replay_of(port=replay.port, call="qwen.000", recent=[*rows.items()])
    [found] = dict(text.exchanged_silu(followed, point_of(f"a.{last}"))).values()
    assert found.shape == (1, 3)
    silu = dict(text.exchanged_silu(replay, point_of("a.silu")))
    assert words in silu and np.array_equal(silu[words], value)


def test_a_gate_that_is_exchanged():
    value, gate = normal(0, 2, 3), normal(1, 2, 3)
    port = build_trace({"t5.000/a.wi_0/output": value, "t5.000/a.wi_1/output": gate})
    replay = replay_of(port=port, call="t5.000")
    for last, right in (("act", gate), ("wo", text.tanh_gelu(gate) * value)):
        found = dict(text.exchanged_gate(replay, point_of(f"a.{last}")))
        assert_same(found, {text.EXCHANGED: right})
        assert not [*text.exchanged_gate(replay, point_of(f"a.{last}", ""))]
    assert not [*text.exchanged_gate(replay, point_of("a.other"))]
    assert not [*text.exchanged_gate(replay, point_of("b.act"))]
    x = normal(2, 2, 4)
    first, second = (
        call_of("linear", linear, {"input": x}, {"weight": normal(3 + i, 3, 4)}, f"a.wi_{i}")
        for i in range(2)
    )
    ((words, changes),) = text.exchanged_projections(
        replay_of(), point_of(suspects=(first, second))
    )
    assert words == f"{text.EXCHANGED} in a"
    given = {**first.inputs, **first.parameters}
    np.testing.assert_allclose(changes["a.wi_0"](first, given), x @ second.parameters["weight"].T)
    given = {**second.inputs, **second.parameters}
    np.testing.assert_allclose(changes["a.wi_1"](second, given), x @ first.parameters["weight"].T)
    assert not [*text.exchanged_projections(replay_of(), point_of(suspects=(first,)))]


# -- arguments of networks ------------------------------------------------------------------------


def arguments_of(role="", within="", **frame):
    point = point_of("", role, frame=frame, within=within)
    return {words: (change, free) for words, change, free in argument_changes(replay_of(), point)}


def test_other_conditioning():
    sizes = np.arange(12.0).reshape(2, 6)
    found = arguments_of(sizes=sizes)
    orders = {
        "width and height are exchanged in the micro-conditioning": [1, 0, 3, 2, 5, 4],
        **{
            f"the micro-conditioning is in the order {order}": order
            for order in ([2, 3, 0, 1, 4, 5], [4, 5, 2, 3, 0, 1], [0, 1, 4, 5, 2, 3])
        },
    }
    assert set(found) == {"the micro-conditioning (sizes) is zero", *orders}
    assert not any(free for _, free in found.values())
    assert not found["the micro-conditioning (sizes) is zero"][0]["sizes"].any()
    for words, order in orders.items():
        assert np.array_equal(found[words][0]["sizes"], sizes[:, order])
    assert not arguments_of(within="block", sizes=sizes)
    context = normal(0, 4, 3, 2)
    found = arguments_of(context=context, pooled=context[:, 0])
    assert not any(free for _, free in found.values())
    assert not found["the pooled text is zero"][0]["pooled"].any()
    assert not found["the text is zero"][0]["context"].any()
    halves = found["the halves of the batch of texts are swapped"][0]["context"]
    assert np.array_equal(halves, context[[2, 3, 0, 1]])
    assert "the halves of the batch of texts are swapped" not in arguments_of(context=context[:3])
    guided = {"the guidance is not used": ({"guidance": None}, False)}
    assert arguments_of(guidance=np.ones(2)) == guided
    assert arguments_of(within="embedder", guidance=np.ones(2)) == guided
    assert not arguments_of(guidance=None)


CLIP = preset("sd15").text_encoders[0]


def test_other_arguments_of_a_text_encoder():
    config = replace(CLIP, num_hidden_layers=6)
    assert isinstance(config, TextConfig) and config.skipped_layers == 0 and config.final_norm
    found = arguments_of(ids=np.zeros((1, 3), int), config=config)
    assert all(free for _, free in found.values())
    skips = {words: change for words, (change, _) in found.items() if words.startswith("clip skip")}
    assert {words: change["skip"] for words, change in skips.items()} == {
        "clip skip: 1 layer fewer": 1,
        "clip skip: 1 layer fewer, without the final norm": 1,
        "clip skip: 2 layers fewer": 2,
        "clip skip: 2 layers fewer, without the final norm": 2,
        "clip skip: 3 layers fewer": 3,
        "clip skip: 3 layers fewer, without the final norm": 3,
    }
    for words, change in skips.items():
        assert ("config" in change) == ("final norm" in words)
        assert "config" not in change or not change["config"].final_norm
    assert not found["the final norm is missing"][0]["config"].final_norm
    bare = replace(config, final_norm=False, skipped_layers=1, num_hidden_layers=3)
    found = arguments_of(ids=np.zeros((1, 3), int), config=bare)
    assert found["a final norm is applied"][0]["config"].final_norm
    assert {x["skip"] for words, (x, _) in found.items() if "clip" in words} == {-1, 1}
    assert found["clip skip: 1 layer more, with the final norm"][0]["config"].final_norm
    names = {words.split()[1] for words in found if words.startswith("activation")}
    assert config.hidden_act not in names and names
    for name in names:
        other = found[f"activation {name} in all layers"][0]["config"]
        assert other == replace(bare, hidden_act=name)
    assert not arguments_of("input", ids=np.zeros((1, 3), int), config=config)
    assert not arguments_of(ids=np.zeros((1, 3), int))


def test_all_other_activations_of_a_text_encoder_are_tried():
    known = [*kind_of(CLIP).activations]
    assert len(known) > 1
    for name in known:
        config = replace(CLIP, hidden_act=name)
        found = arguments_of(ids=np.zeros((1, 3), int), config=config)
        names = [words.split()[1] for words in found if words.startswith("activation")]
        assert names == [other for other in known if other != name]


def test_the_token_that_a_text_encoder_pools():
    config = replace(CLIP, projection_dim=4, eos_token_id=2)

    def ends(config):
        found = arguments_of(ids=np.zeros((1, 3), int), config=config)
        assert all(free for _, free in found.values())
        return {
            words: change["config"].eos_token_id
            for words, (change, _) in found.items()
            if words.startswith("pooled")
        }

    largest = {"pooled at the largest id instead of the end token": 2}
    zero = {"pooled at id 0 instead of the end token": 0}
    assert ends(config) == zero
    assert ends(replace(config, eos_token_id=0)) == largest
    assert ends(replace(config, eos_token_id=49407)) == largest | zero
    assert not ends(replace(config, projection_dim=0))


def test_other_hidden_states_of_a_text_encoder():
    config = replace(CLIP, num_hidden_layers=2)
    x = {name: normal(i, 1, 3, 4) for i, name in enumerate(("embeddings", "0", "1"))}
    tensors = {
        "text_encoder.000/text_model.embeddings/output": x["embeddings"],
        "text_encoder.000/text_model.encoder.layers.0/output": x["0"],
        "text_encoder.000/text_model.encoder.layers.1/output": x["1"],
        "text_encoder.000/text_model.encoder.layers.1.mlp/output": x["1"],
    }
    replay = replay_of(port=build_trace(tensors), call="text_encoder.000")

    def found(config, name="", role="", computed=x["1"]):
        point = point_of(name, role, computed, frame={"config": config})
        return dict(hidden_states(replay, point))

    names = ["embeddings", "encoder.layers.0", "encoder.layers.1"]
    expected = {
        f"equals hidden state {i} instead of 2 after the final norm: "
        f"the output of text_model.{name}": y
        for i, (name, y) in enumerate(zip(names, x.values(), strict=True))
    }
    assert_same(found(config), expected)
    other = found(replace(config, final_norm=False, skipped_layers=1))
    assert "equals hidden state 0 instead of 1: the output of text_model.embeddings" in other
    assert not found(config, "x") and not found(config, "", "input") and not found(None)
    assert not found(config, computed=x["1"][:, :2])


@pytest.mark.parametrize("norm", ["norm", "text_model.final_layer_norm", "final_layer_norm"])
@pytest.mark.parametrize("block", ["text_model.encoder.layers", "encoder.block", "layers", "block"])
def test_joined_states_may_be_those_of_any_layer_that_was_recorded(norm, block):
    """Other layers, and those without an output, stand between them."""
    states = [normal(i, 1, 3, 4) for i in range(4)]
    call = "text_encoder.000"
    tensors = {
        f"{call}/{block}.0.mlp/output": states[0],
        f"{call}/shared/output": states[0],
        f"{call}/{block}.9/input": states[0],
        f"{call}/{block}.0/output": states[1],
        f"{call}/{block}.1/output": states[2],
        f"{call}/{norm}/output": states[3],
    }
    replay = replay_of(port=build_trace(tensors), call=call)
    names = ["hidden state 0", "hidden state 1", "hidden state 2", "the state after the final norm"]
    right = np.concatenate(states[1:3], axis=-1)
    for i in (0, 3):
        got = np.concatenate([states[1], states[i]], axis=-1)
        point = point_of(role="", computed=right, recorded=got, frame={"config": CLIP})
        expected = {f"part 2 of 2 is {names[i]}": got}
        assert_same(dict(hidden_states(replay, point)), expected)
