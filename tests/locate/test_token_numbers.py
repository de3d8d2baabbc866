"""Token ids and their masks: which rows, which causes and which reasons a run gets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from host_units import context_of, entry_of

from ldmref.locate.pipeline import tokens
from ldmref.locate.pipeline.tokens import explain, mask_faults

MASKED = "z-image-tiny"  # whose encoder hides padding
LONG = "a red cat on a red dog on a red cat on a red dog on a red cat"


def tokenized(*prompts, model="tiny", number=0, length=0, **request):
    context = context_of({}, model)
    return tokens.tokenize(context, number, prompts, request, length)


def ids_of(*prompts, model="tiny"):
    return tokenized(*prompts, model=model).ids.reshape(len(prompts), -1)


def mask_of(*prompts, model=MASKED):
    return tokenized(*prompts, model=model).mask.reshape(len(prompts), -1)


def rows_of(calls, model="tiny", prompt="a cat", **more):
    """Return the rows of the tokens of a run as (call, layer, verdict, cause), and its context."""
    given = {} if prompt is None else {"params": {"prompt": prompt}}
    context = context_of(calls, model, **given | more)
    rows = [*tokens.judge_tokens(context)]
    assert all(row.kind == "tokens" for row in rows)
    return [(row.call, row.layer, row.verdict, row.cause) for row in rows], context


# -- calls of encoders ----------------------------------------------------------------------------


def test_each_encoder_has_its_tokenizer(monkeypatch):
    asked = []

    def expected(context, number, prompts, length):
        asked.append((number, list(prompts), length))

    monkeypatch.setattr(tokens, "expected_tokens", expected)
    ids = ids_of("a cat")
    calls = {name: {"input.input_ids": ids} for name in ("text_encoder", "text_encoder_3")}
    calls["text_encoder_2"] = {"input.input_ids": ids[:, :5]}
    rows, context = rows_of(calls, "sd3-tiny")
    both = ["a cat", ""]
    assert rows == [] and asked == [(0, both, 16), (1, both, 5), (2, both, 16)]
    reasons = {name: why for (name, _, role), why in context.coverage.reasons.items()
               if role == "input_ids"}  # fmt: skip
    assert [*reasons] == ["text_encoder/", "text_encoder_2/", "text_encoder_3/"]
    assert not context.coverage.judged


def test_where_ids_are_wrong():
    ids = ids_of("a cat", "a red dog")
    other = ids.copy()
    other[1, [1, 3]] += 1
    call = {"text_encoder.000": {"input.input_ids": other}}
    context = context_of(call, params={"prompt": ["a cat", "a red dog"]})
    (row,) = tokens.judge_tokens(context)
    words = f"first at token 1 of 'a red dog': id {other[1, 1]} instead of {ids[1, 1]}"
    assert (row.verdict, row.cause, row.note) == ("differs", "", words)
    assert row.error == 2 / 16


def test_the_cause_may_be_found_with_a_prompt_that_is_farther():
    """Padded with another id, the empty prompt may be nearer than the prompt itself."""
    ids = ids_of("a cat")
    padded = np.where(ids == 0, 9, ids)
    call = {"text_encoder.000": {"input.input_ids": padded}}
    context = context_of(call, params={"prompt": [LONG, "a cat"]})
    (row,) = tokens.judge_tokens(context)
    assert row.cause == "padded with id 9 instead of 0" and "'a cat'" in row.note
    moved = np.roll(ids_of("a red dog"), -1)
    context = context_of(
        {"text_encoder.000": {"input.input_ids": moved}},
        params={"prompt": ["a red cat", "a red dog"]},
    )
    (row,) = tokens.judge_tokens(context)
    assert row.cause == "the first token is missing" and "'a red dog'" in row.note


def test_padding_that_nobody_reads_may_be_in_front():
    prompts = ("a cat", "a red dog")
    ids, mask = ids_of(*prompts, model=MASKED), mask_of(*prompts)
    shifts = [int(np.sum(row == 0)) for row in mask]
    moved = np.stack([np.roll(row, shift) for row, shift in zip(ids, shifts, strict=True)])
    right = np.stack([np.roll(row, shift) for row, shift in zip(mask, shifts, strict=True)])

    def verdicts(ids, mask, model=MASKED):
        call = {"input.input_ids": ids, "input.attention_mask": mask}
        rows, _ = rows_of({"text_encoder": call}, model, list(prompts))
        return [(layer, verdict, cause) for _, layer, verdict, cause in rows]

    tokens_right, mask_right = ("", "equal", ""), ("attention_mask", "equal", "")
    assert verdicts(ids, mask) == verdicts(moved, right) == [tokens_right, mask_right]
    mixed = np.stack([moved[0], ids[1]]), np.stack([right[0], mask[1]])
    assert verdicts(*mixed) == [tokens_right, mask_right]
    other = "the mask is that of padding on the other side"
    assert verdicts(moved, mask) == [tokens_right, ("attention_mask", "differs", other)]
    # an encoder that reads its padding has it behind the tokens
    few = ids_of(*prompts)
    assert [row[:2] for row in verdicts(np.roll(few, 12, axis=1), few != 0, "tiny")] == [
        ("", "differs")
    ]


@pytest.mark.parametrize(("number", "asked", "length"), [(0, 20, 16), (1, 20, 20), (1, 16, 16)])
def test_how_many_tokens_an_encoder_reads(number, asked, length):
    assert tokens._find_length(context_of({}, "flux-tiny"), number, asked) == length
    assert tokens._find_length(context_of({}), 0, asked) == asked


@pytest.mark.parametrize("asked", [20, 16, None])
def test_ids_have_the_length_that_was_asked_for(asked):
    """Without a wish, any number of tokens is right for encoders that read any."""
    ids = tokenized("a cat", model="flux-tiny", number=1, length=20).ids[0]
    calls = {"text_encoder_2": {"input.input_ids": ids}}
    request = {} if asked is None else {"max_sequence_length": asked}
    context = context_of(calls, "flux-tiny", params={"prompt": "a cat"}, request=request)
    (row,) = tokens.judge_tokens(context)
    right = asked != 16
    assert row.verdict == ("equal" if right else "differs")
    assert row.kind == "tokens"
    assert row.error == (0.0 if right else math.inf)
    assert right or ("20" in row.note and "16" in row.note)


# -- ids that were recorded before ----------------------------------------------------------------


def given(calls, model="sd3-tiny", attributes=None):
    """Return the verdicts of recorded tokens by call, and the context."""
    context = context_of(calls, model, attributes=attributes)
    rows = [*tokens._judge_given(context)]
    assert all(row.kind == "tokens" for row in rows)
    return {row.call: (row.verdict, row.error) for row in rows}, context


READ = np.array([[1, 5, 2], [1, 6, 2]])


@pytest.mark.parametrize("number", range(3))
def test_tokens_of_each_encoder_are_those_of_its_calls(number):
    name = f"text_encoder_{number + 1}" if number else "text_encoder"
    recorded = f"tokens_{number + 1}" if number else "tokens"
    calls = {
        recorded: {"output.ids": READ + number},
        name: {"input.input_ids": READ + number},
    }
    rows, context = given(calls)
    entry = entry_of(context, recorded)
    assert rows == {} and context.coverage.has(entry, "ids", "output")
    calls[name] = {"input.input_ids": READ + 7}
    rows, context = given(calls)
    assert rows == {recorded: ("differs", math.inf)}
    assert context.coverage.has(entry_of(context, recorded), "ids", "output")


def test_tokens_without_ids_leave_the_others():
    calls = {
        "tokens.000": {"output.weights": np.ones((1, 3))},
        "tokens.001": {"output.ids": np.zeros((0, 3), int)},
        "tokens.002": {"output.ids": READ + 1},
        "text_encoder": {"input.input_ids": READ},
    }
    rows, context = given(calls)
    assert rows == {"tokens.002": ("differs", math.inf)}
    assert context.coverage.has(entry_of(context, "tokens.000"), "weights", "output")
    assert not context.coverage.has(entry_of(context, "tokens.001"), "ids", "output")


def test_tokens_may_be_those_of_several_calls():
    """Rows of one prompt may be read by different calls, and calls without ids do not count."""
    calls = {
        "tokens": {"output.ids": READ[:, None]},
        "text_encoder.000": {"input.input_ids": READ[:1]},
        "text_encoder.001": {"input.input_ids": READ[1:]},
        "text_encoder.002": {"input.input_ids": np.zeros((0, 3), int)},
        "text_encoder.003": {"input.input_ids": np.zeros((1, 4), int)},
    }
    assert given(calls)[0] == {}
    calls["text_encoder.001"] = {"output": np.zeros((1, 3, 4))}
    rows, context = given(calls)
    assert rows == {} and not context.coverage.has(entry_of(context, "tokens"), "ids", "output")
    assert ("tokens/", "output", "ids") in context.coverage.reasons
    del calls["text_encoder.001"]
    assert given(calls)[0] == {"tokens": ("differs", math.inf)}


# -- prompts --------------------------------------------------------------------------------------


def test_how_a_request_treats_long_prompts_and_weights():
    assert tokenized(LONG).ids.shape == (1, 1, 16)
    assert tokenized(LONG, long_prompts="chunk").ids.shape == (1, 2, 16)
    assert tokenized(LONG, long_prompts=3).ids.shape == (1, 1, 16)
    assert (tokenized("(cat)").weights == 1.0).all()
    weighted = tokenized("(cat)", prompt_weights="a1111").weights
    assert weighted.max() == pytest.approx(1.1)
    both = tokenized(LONG + " (cat)", prompt_weights="a1111", long_prompts="chunk")
    assert both.ids.shape == (1, 2, 16) and both.weights.max() == pytest.approx(1.1)


# -- masks ----------------------------------------------------------------------------------------


def mask_row(mask, wanted, masked=True, role="attention_mask"):
    context = context_of({"text_encoder": {f"input.{role}": mask}}, MASKED)
    entry = entry_of(context, "text_encoder")
    rows = [*tokens._judge_mask(context, entry, np.asarray(wanted), masked)]
    assert context.coverage.has(entry, role) == bool(rows)
    assert all((row.kind, row.layer) == ("tokens", "attention_mask") for row in rows)
    return [(row.verdict, row.cause, row.error) for row in rows]


def test_masks_by_any_name_and_shape():
    wanted = [[1, 1, 1, 0], [1, 1, 0, 0]]
    for role in ("attention_mask", "mask"):
        assert mask_row(np.array(wanted), wanted, role=role) == [("equal", "", 0.0)]
    folded = np.array(wanted).reshape(2, 1, 4)
    assert mask_row(folded, wanted) == [("equal", "", 0.0)]
    assert mask_row(folded, wanted, masked=False) == []
    assert mask_row(np.array(wanted), wanted, role="ids") == []


def test_faults_of_a_mask():
    mask = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    found = {}
    for words, x in mask_faults(mask):
        found.setdefault(words, x.tolist())
    assert found == {
        "the mask is inverted": [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]],
        "padding is not masked": [[1] * 5] * 2,
        "everything is masked": [[0] * 5] * 2,
        "the mask is one token late": [[0, 1, 1, 1, 0], [0, 1, 0, 0, 0]],
        "the mask is one token early": [[1, 1, 0, 0, 1], [0, 0, 0, 0, 1]],
        "the mask has one token too many": [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]],
        "the mask has one token too few": [[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
        "rows of the mask are exchanged": mask[::-1].tolist(),
        "each row has the mask of another row": mask[::-1].tolist(),
        "all rows have the mask of row 0": [mask[0].tolist()] * 2,
        "all rows have the mask of row 1": [mask[1].tolist()] * 2,
        "the mask is that of padding on the other side": mask[:, ::-1].tolist(),
    }
    one = [words for words, _ in mask_faults(mask[:1])]
    assert not [words for words in one if "row" in words]
    front = np.array([[0, 0, 1, 1]])  # of padding in front, the first place is one of padding
    assert dict(mask_faults(front))["the mask has one token too many"].tolist() == [[1, 0, 0, 1]]


# -- causes ---------------------------------------------------------------------------------------


CAUSES = [
    ([1, 9, 9], [1, 2, 2], "padded with id 9 instead of 2"),
    ([1, 9], [1, 2], "padded with id 9 instead of 2"),
    ([1, 2, 9, 9], [1, 2, 3, 3], "padded with id 9 instead of 3"),
    ([9, 9], [2, 2], "all ids differ by 7"),
    ([1, 9, 8], [1, 2, 2], ""),
    ([5, 6, 0, 0], [1, 5, 6, 0], "the first token is missing"),
    ([5, 6, 0, 9], [1, 5, 6, 0], "the first token is missing"),
    ([5, 7, 0, 9], [1, 5, 6, 0], ""),
    ([3, 1, 5, 6], [1, 5, 6, 0], "one token too many at the start"),
    ([3, 1, 5, 7], [1, 5, 6, 0], ""),
    ([11, 12, 14], [1, 2, 4], "all ids differ by 10"),
    ([1, 8, 4], [1, 2, 4], "a single token: id 8 instead of 2"),
    ([8, 2, 4], [1, 2, 4], "a single token: id 8 instead of 1"),
]


def test_causes_of_wrong_ids():
    for got, expected, cause in CAUSES:
        found, note = explain(np.array(got), np.array(expected), "a cat")
        assert found == cause
        first = next(i for i in range(len(got)) if got[i] != expected[i])
        assert note.startswith(f"first at token {first} of 'a cat'")
        assert note.endswith(f"id {got[first]} instead of {expected[first]}")


def test_ids_of_narrow_types_are_subtracted_without_overflow():
    got, expected = np.array([3, 4, 9], np.uint8), np.array([1, 2, 7], np.uint8)
    assert explain(expected, got, "x")[0] == "all ids differ by -2"
    assert explain(got, expected, "x")[0] == "all ids differ by 2"


def test_tokens_in_another_place():
    placed = tokens.pad_in_front(np.array([5, 6, 7, 0]), np.array([1, 1, 1, 0]))
    assert placed.ids.tolist() == [0, 5, 6, 7] and placed.mask.tolist() == [0, 1, 1, 1]
    assert placed.shift == 1
    same = tokens.pad_in_front(placed.ids, placed.mask)
    assert same.ids.tolist() == [0, 5, 6, 7] and same.shift == 0
    none = tokens.pad_in_front(np.array([5, 6]), np.array([0, 0]))
    assert none.ids.tolist() == [5, 6] and none.mask.tolist() == [0, 0]
