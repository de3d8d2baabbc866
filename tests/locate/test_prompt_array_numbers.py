"""What the denoiser should be given of prompts, from the outputs of recorded text encoders."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, model_of, normal

from ldmref.errors import LdmrefError
from ldmref.locate.pipeline import prompt_arrays, tokens
from ldmref.locate.pipeline.prompt_arrays import (
    NotKnown,
    NotRead,
    PromptArrays,
    arrays_of_prompts,
    arrays_of_side,
    prompts_of,
)
from ldmref.models.conditioning import Conditioning
from ldmref.models.text import text_encoder, text_encoder_pooled

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
PROMPTS = ("a cat", "a red dog", "")
LONG = "a red cat on a red dog on a red cat on a red dog on a red cat"


def ids_of(prompts, model="tiny", number=0, length=0, **request):
    found = tokens.tokenize(context_of({}, model), number, prompts, request, length)
    return found.ids.reshape(-1, found.ids.shape[-1])


def encoder_calls(prompts=PROMPTS, model="tiny", **request):
    """Return calls of all text encoders of a model that read prompts, with random outputs."""
    calls = {}
    for number, config in enumerate(model_of(model).config.text_encoders):
        ids = ids_of(prompts, model, number, **request)
        width = getattr(config, "hidden_size", 0) or config.d_model
        pooled = getattr(config, "projection_dim", 0) or width
        calls[ENCODERS[number]] = {
            "input.input_ids": ids,
            "output": normal(number, *ids.shape, width),
            "output.pooled": normal(9 + number, len(ids), pooled),
        }
    return calls


class Changed:
    """A model with another configuration, or another way of its texts."""

    def __init__(self, name, text=None, **config):
        self.own = model_of(name)
        self.config = replace(self.own.config, **config)
        self.family = self.own.family if text is None else SimpleNamespace(text=text)

    def __getattr__(self, name):
        return getattr(self.own, name)


def arrays(context, *prompts, length=0, **request):
    return arrays_of_prompts(context, request, prompts, length)


# -- one prompt -----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", range(3))
def test_the_states_of_a_prompt_are_those_of_its_row(row):
    calls = encoder_calls()
    found = arrays(context_of(calls), PROMPTS[row])
    assert np.array_equal(found.states, calls["text_encoder"]["output"][row])
    assert found.pooled is None and found.mask is None


def test_encoders_are_joined_as_the_family_joins_them():
    """In Stable Diffusion 3 two of CLIP side by side, and T5 behind them."""
    calls = encoder_calls(model="sd3-tiny")
    context = context_of(calls, "sd3-tiny")
    found = arrays(context, "a cat", "a red dog", "")
    first, second, third = (
        calls[name]["output"][row] for name, row in zip(ENCODERS, range(3), strict=True)
    )
    np.testing.assert_allclose(found.states[:16, :16], first, rtol=1e-6)
    np.testing.assert_allclose(found.states[:16, 16:24], second, rtol=1e-6)
    assert not found.states[:16, 24:].any()
    np.testing.assert_allclose(found.states[16:], third, rtol=1e-6)
    vectors = [calls[name]["output.pooled"][row] for row, name in enumerate(ENCODERS[:2])]
    np.testing.assert_allclose(found.pooled, np.concatenate(vectors), rtol=1e-6)


def test_the_mask_of_a_prompt_and_the_length_of_a_pipeline():
    calls = encoder_calls(model="z-image-tiny")
    context = context_of(calls, "z-image-tiny")
    states = calls["text_encoder"]["output"][1]
    whole = arrays(context, "a red dog")
    count = int(np.sum(whole.mask))
    assert whole.mask.tolist() == [1] * count + [0] * (64 - count) and count == 5
    assert np.array_equal(whole.states, states)
    short = arrays(context, "a red dog", length=8)
    assert np.array_equal(short.states, states[:8]) and short.mask.tolist() == [1] * 5 + [0] * 3
    assert arrays(context, "a red dog", length=4).states.shape == (64, 20)


def test_lengths_of_padded_states():
    mask = np.array([0, 1, 1, 0])
    own = PromptArrays(np.arange(8.0).reshape(4, 2), np.ones(3), mask)
    two = own.at_length(2)  # the first that are kept are those that are read
    assert two.states.tolist() == [[2, 3], [4, 5]] and two.mask.tolist() == [1, 1]
    assert own.at_length(3).states.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert own.at_length(5).states.tolist() == [*own.states.tolist(), [0, 0]]
    assert own.at_length(5).mask.tolist() == [0, 1, 1, 0, 0]
    assert own.at_length(1) is own and two.pooled is own.pooled
    empty = own._replace(mask=np.zeros(4, int))  # of which one state is kept at least
    assert empty.at_length(0) is empty and len(empty.at_length(1).states) == 1
    counted = own._replace(mask=np.array([0, 2, 2, 0]))
    assert counted.at_length(2).mask.tolist() == [2, 2]


def test_a_long_prompt_may_be_read_in_chunks():
    calls = encoder_calls([LONG], long_prompts="chunk")
    states = calls["text_encoder"]["output"]
    assert states.shape == (2, 16, 32)
    found = arrays(context_of(calls), LONG, long_prompts="chunk")
    assert np.array_equal(found.states, states.reshape(32, 32))
    half = {"text_encoder": {k: x[:1] for k, x in calls["text_encoder"].items()}}
    with pytest.raises(NotRead):
        arrays(context_of(half), LONG, long_prompts="chunk")


def test_weights_of_prompts_are_not_recomputed():
    context = context_of(encoder_calls())
    assert len(arrays(context, "a cat", prompt_weights="none").states) == 16
    with pytest.raises(NotKnown, match="weights"):
        arrays(context, "a cat", prompt_weights="a1111")


def test_what_a_family_is_asked_for():
    seen = {}

    class Text:
        def __init__(self):
            self.more = {"mask": np.array([[1, 0]])}
            self.pooled = normal(3, 1, 5)
            self.states = normal(4, 1, 2, 3)

        def encode(self, ops, configs, given, compile_network):
            seen["encode"] = ops.dtype, configs, [x.ids.tolist() for x in given]
            return "encoded"

        def condition_text(self, ops, config, encoded, size):
            seen["condition"] = config, encoded, size
            return Conditioning(self.states, self.pooled, more=self.more)

    text = Text()
    model = Changed("flux-tiny", text)
    context = replace(context_of(encoder_calls(model="flux-tiny"), "flux-tiny"), model=model)
    found = arrays(context, "a cat", "a red dog")
    ids = [ids_of([prompt], "flux-tiny", i)[None].tolist() for i, prompt in enumerate(PROMPTS[:2])]
    assert seen["encode"][1:] == (model.config.text_encoders, ids)
    assert seen["condition"] == (model.config, "encoded", (0, 0))
    assert np.array_equal(found.states, text.states[0]) and found.mask.tolist() == [1, 0]
    assert np.array_equal(found.pooled, text.pooled[0])
    text.more, text.pooled = {}, None
    found = arrays(context, "a cat", "a red dog")
    assert found.mask is None and found.pooled is None
    text.states = None
    with pytest.raises(NotKnown, match="no text"):
        arrays(context, "a cat", "a red dog")

    def refuse(*values):
        raise LdmrefError("nothing fits", code="E-X")

    text.encode = refuse
    with pytest.raises(NotKnown, match="nothing fits"):
        arrays(context, "a cat", "a red dog")


def test_a_model_without_an_encoder_gives_as_many_zeros_as_were_asked_for():
    zeros = np.concatenate([normal(0, 1, 3, 4), np.zeros((1, 2, 4))], axis=1)
    text = SimpleNamespace(
        encode=lambda *values: None, condition_text=lambda *values: Conditioning(zeros, None)
    )
    context = replace(context_of(encoder_calls()), model=Changed("tiny", text))
    assert arrays(context, "a cat", length=4, max_sequence_length=1).states.shape == (4, 4)
    assert arrays(context, "a cat", length=4).states.shape == (5, 4)
    zeros[:, 1:] = 0.0
    any_length = arrays_of_prompts(context, {"max_sequence_length": 1}, ("a cat",))
    assert any_length.states.shape == (5, 4)


# -- the tokens that an encoder read --------------------------------------------------------------


def tokens_of(recorded, prompt="a cat", number=1, model="flux-tiny", **request):
    """Return the tokens of a prompt for an encoder that read these ids."""
    name = ENCODERS[number]
    calls = {f"{name}.{i:03}": {"input.input_ids": ids} for i, ids in enumerate(recorded)}
    context = context_of(calls, model)
    return prompt_arrays._tokens(context, request, number, prompt)


def test_the_longest_call_that_reads_a_prompt_has_its_tokens():
    short, long = (ids_of(["a cat"], "flux-tiny", 1, n) for n in (8, 20))
    other = ids_of(["a red dog"], "flux-tiny", 1, 24)
    assert tokens_of([short, long, other]).ids.shape == (1, 1, 20)
    assert tokens_of([other, long, short]).ids.shape == (1, 1, 20)
    assert tokens_of([short, other]).ids.shape == (1, 1, 8)
    folded = [x[:, None] for x in (short, long, other)]  # with an axis of chunks
    assert tokens_of(folded).ids.shape == (1, 1, 20)
    assert tokens_of([other, other[:, :9]]).ids.shape == (1, 1, 24)  # that of the first call
    assert tokens_of([other[:, :9], other]).ids.shape == (1, 1, 9)
    found = tokens_of([long])
    assert np.array_equal(found.ids[0], long)
    assert found.weights.dtype == np.float32 and (found.weights == 1.0).all()
    assert found.weights.shape == found.ids.shape


def test_a_second_call_of_the_same_length_may_be_the_one():
    first = ids_of(["a red dog"], "flux-tiny", 1, 12)
    second = ids_of(["a cat"], "flux-tiny", 1, 12)
    longer = ids_of(["a red dog"], "flux-tiny", 1, 20)
    assert tokens_of([longer, first, second]).ids.shape == (1, 1, 12)


def test_a_prompt_is_tokenized_once_for_each_length(monkeypatch):
    asked = []
    own = tokens.tokenize

    def counted(context, number, prompts, request, length):
        asked.append((number, prompts, request, length))
        return own(context, number, prompts, request, length)

    monkeypatch.setattr(prompt_arrays, "tokenize", counted)
    other = ids_of(["a red dog"], "flux-tiny", 1, 12)
    tokens_of([other, other, ids_of(["a cat"], "flux-tiny", 1, 8)], long_prompts="truncate")
    request = {"long_prompts": "truncate"}
    assert asked == [(1, ["a cat"], request, 12), (1, ["a cat"], request, 8)]


def test_weights_of_tokens_are_left_out():
    ids = ids_of(["(cat)"], "tiny", prompt_weights="a1111")
    found = tokens_of([ids], "(cat)", 0, "tiny", prompt_weights="a1111")
    assert (found.weights == 1.0).all()


def test_calls_without_ids_have_no_tokens():
    calls = {"text_encoder": {"output": np.ones((1, 16, 32))}}
    with pytest.raises(NotKnown, match="text_encoder were not recorded"):
        prompt_arrays._tokens(context_of(calls), {}, 0, "a cat")


def test_an_encoder_of_one_length_alone_did_not_read_another():
    with pytest.raises(NotKnown, match="read 9 tokens"):
        tokens_of([np.zeros((1, 9), int)], number=0)
    ids = ids_of(["a cat"], "flux-tiny")
    assert tokens_of([np.zeros((1, 20), int), ids], number=0).ids.shape == (1, 1, 16)


def test_all_chunks_of_a_prompt_are_read():
    chunks, mask = np.array([[1, 5, 0], [1, 6, 0]]), np.array([[1, 1, 0], [1, 1, 0]])
    for ids in (chunks, chunks[::-1], chunks[:, None], np.array([[0, 1, 6], [1, 5, 0]])):
        assert prompt_arrays._reads(ids, chunks, mask)
    for ids in (chunks[:1], chunks[1:], np.array([[0, 1, 6], [0, 1, 7]])):
        assert not prompt_arrays._reads(ids, chunks, mask)


# -- the encoders that stand for the recorded ones ------------------------------------------------


def test_recorded_encoders_return_what_was_recorded():
    calls = encoder_calls()
    context = context_of(calls)
    own = calls["text_encoder"]
    ids = own["input.input_ids"][[2, 0]]
    compiled = prompt_arrays._recorded_encoder(context)
    hidden = compiled(text_encoder, "text_encoder")(None, ids)
    assert np.array_equal(hidden, own["output"][[2, 0]])
    hidden, pooled = compiled(text_encoder_pooled, "text_encoder")(None, ids, 1)
    assert np.array_equal(hidden, own["output"][[2, 0]])
    assert np.array_equal(pooled, own["output.pooled"][[2, 0]])
    del own["output.pooled"]
    compiled = prompt_arrays._recorded_encoder(context_of(calls))
    assert compiled(text_encoder, "text_encoder")(None, ids).shape == (2, 16, 32)
    with pytest.raises(NotKnown, match="text_encoder"):
        compiled(text_encoder_pooled, "text_encoder")(None, ids)


def test_a_mask_says_which_padding_may_be_in_front():
    ids, mask = np.array([[7, 8, 9, 0]]), np.array([[1, 1, 1, 0]])
    hidden = normal(0, 1, 4, 5)
    calls = {"text_encoder": {"input.input_ids": np.array([[0, 7, 8, 9]]), "output": hidden}}
    encode = prompt_arrays._recorded_encoder(context_of(calls))(text_encoder, "text_encoder")
    assert np.array_equal(encode(None, ids, 0, mask), hidden[:, [1, 2, 3, 0]])
    with pytest.raises(NotRead):
        encode(None, ids)


def test_a_call_without_an_array_leaves_the_next_calls():
    """Calls of other texts of which something is missing are a reason, not an answer."""
    ids, hidden = np.array([[1, 2, 3]]), normal(0, 1, 3, 5)
    without = {"input.input_ids": ids}
    flat = {"input.input_ids": ids, "output": hidden[:, 0]}
    right = {"input.input_ids": ids, "output": hidden}
    ones = np.ones(3, int)

    def row_of(*calls, wanted=ids[0]):
        named = {f"text_encoder.{i:03}": call for i, call in enumerate(calls)}
        return prompt_arrays._recorded_row(context_of(named), "text_encoder", wanted, ones)

    for calls in ((without, right), (flat, right), ({"output": hidden}, right)):
        found, vector = row_of(*calls)
        assert np.array_equal(found, hidden[0]) and vector is None
    with pytest.raises(NotKnown) as raised:
        row_of(without, flat)
    assert raised.type is NotKnown
    with pytest.raises(NotRead):
        row_of(flat)
    with pytest.raises(NotRead):
        row_of(right, wanted=ids[0] + 1)


# -- the prompts of a side ------------------------------------------------------------------------


TEXTS = [
    ({"prompt": "a", "prompt_3": "c"}, "cond", [("a", "a", "c")]),
    ({"prompt": "a", "prompt_2": ["b"]}, "cond", [("a", "b", "a")]),
    (
        {"prompt": ("a", "b"), "prompt_2": ("c", "d")},
        "cond",
        [("a", "c", "a"), ("b", "d", "b")],
    ),
    ({"prompt": "a", "prompt_2": ["b", "c"]}, "cond", [("a", "b", "a"), ("a", "c", "a")]),
    ({"prompt": "a", "negative_prompt_2": "b"}, "uncond", [("", "b", "")]),
    ({"prompt": "a", "negative_prompt": "b"}, "uncond", [("b", "b", "b")]),
    ({"prompt": ["a", "b"], "negative_prompt_3": "c"}, "uncond", [("", "", "c")] * 2),
    ({"prompt": "a", "negative_prompt": ["b", "c"]}, "uncond", [("b",) * 3, ("c",) * 3]),
    ({"prompt": ["a", "b", "c"], "negative_prompt": ["b", "c"]}, "uncond", None),
    ({"prompt": ["a", "b", "c"], "prompt_2": ["b", "c"]}, "cond", None),
    ({"prompt": ["a", 2]}, "cond", None),
]


def test_prompts_of_three_encoders():
    for request_of, side, prompts in TEXTS:
        assert prompts_of(context_of({}, "sd3-tiny"), request_of, side) == prompts


def side_of(context, request, side, images=1, length=0):
    return arrays_of_side(context, request, side, images, length)


def test_each_image_has_the_arrays_of_its_prompt():
    calls = encoder_calls()
    context = context_of(calls)
    states = calls["text_encoder"]["output"]
    request = {"prompt": ["a cat", "a red dog"], "negative_prompt": ["", "a cat"]}
    for side, rows in (("cond", (0, 0, 1, 1)), ("uncond", (2, 2, 0, 0))):
        found = side_of(context, request, side, 4)
        assert len(found) == 4
        assert all(np.array_equal(x.states, states[i]) for x, i in zip(found, rows, strict=True))
    with pytest.raises(NotKnown, match="3 images"):
        side_of(context, request, "cond", 3)


def test_the_length_of_a_call_is_that_of_its_texts():
    context = context_of(encoder_calls(model="z-image-tiny"), "z-image-tiny")
    for side in ("cond", "uncond"):
        (found,) = side_of(context, {"prompt": "a cat"}, side, 1, 8)
        assert found.states.shape == (8, 20) and found.mask.shape == (8,)


def test_a_prompt_that_no_encoder_read_is_named():
    context = context_of(encoder_calls(["a cat"]))
    with pytest.raises(NotKnown, match="prompts"):
        side_of(context, {}, "cond")
    with pytest.raises(NotRead, match="'a red dog'"):
        side_of(context, {"prompt": ["a cat", "a red dog"]}, "cond", 2)
    without = context_of({"text_encoder": {"output": np.ones((1, 16, 32))}})
    with pytest.raises(NotKnown) as raised:
        side_of(without, {"prompt": "a cat"}, "cond")
    assert raised.type is NotKnown


@pytest.mark.parametrize("side", ["cond", "uncond"])
def test_states_that_a_request_gave(side):
    prefix = "" if side == "cond" else "negative_"
    states, pooled = normal(0, 2, 3, 4), normal(1, 2, 5)
    names = [f"input.{prefix}{name}" for name in ("prompt_embeds", "pooled_prompt_embeds")]
    calls = {"inputs": dict(zip(names, (states, pooled), strict=True))}
    found = side_of(context_of(calls), {}, side, 4)
    rows = (0, 0, 1, 1)
    for x, i in zip(found, rows, strict=True):
        assert np.array_equal(x.states, states[i]) and np.array_equal(x.pooled, pooled[i])
        assert x.mask is None
    other = "uncond" if side == "cond" else "cond"
    with pytest.raises(NotKnown):
        side_of(context_of(calls), {}, other, 4)


# -- negative sides that are zero -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_of", "own", "diffusers"),
    [
        ({}, True, True),
        ({"negative_prompt": None}, True, True),
        ({"negative_prompt": ""}, True, False),
        ({"negative_prompt": "x"}, False, False),
        ({"negative_prompt": [""]}, False, False),
    ],
)
def test_which_negative_sides_are_zero(request_of, own, diffusers):
    for is_diffusers, zero in ((False, own), (True, diffusers)):
        config = SimpleNamespace(zero_empty_negative=True)
        context = SimpleNamespace(model=SimpleNamespace(config=config), is_diffusers=is_diffusers)
        assert prompt_arrays._zeros(context, request_of) is zero
        config.zero_empty_negative = False
        assert prompt_arrays._zeros(context, request_of) is False


@pytest.mark.parametrize("model", ["tiny", "sd3-tiny", "z-image-tiny"])
def test_zeros_in_place_of_a_negative_prompt(model):
    calls = encoder_calls(["a cat", "a red dog"], model)
    context = context_of(calls, model)
    zeroed = replace(context, model=Changed(model, zero_empty_negative=True))
    request = {"prompt": ["a cat", "a red dog"]}
    found = side_of(zeroed, request, "uncond", 2, 20)
    right = side_of(context, request, "cond", 2, 20)
    assert len(found) == 2 and all(x is found[0] for x in found)
    assert found[0].states.shape == right[0].states.shape and not found[0].states.any()
    if right[0].pooled is None:
        assert found[0].pooled is None
    else:
        assert found[0].pooled.shape == right[0].pooled.shape and not found[0].pooled.any()
    assert np.array_equal(found[0].mask, right[0].mask)
    given = side_of(zeroed, request, "cond", 2, 20)
    assert np.array_equal(given[1].states, right[1].states) and given[1].states.any()
    with pytest.raises(NotRead):  # the text "" of the negative side was not encoded
        side_of(context, request, "uncond", 2, 20)
