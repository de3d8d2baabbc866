"""Ids and masks of text encoders, parts of batches, and what is given where calls are left out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

from ldmref.locate.pipeline import prompt_arrays, text_inputs, tokens
from ldmref.locate.pipeline.ledger import Ledger
from ldmref.locate.pipeline.prompt_arrays import PromptArrays
from ldmref.locate.pipeline.selected import mark_selected
from ldmref.locate.pipeline.text_inputs import ExpectedText


def ids_of(*prompts, model="tiny", length=0):
    """Return the ids and the mask of prompts, (n, l)."""
    context = context_of({"sampler.000": {"output": np.zeros(1)}}, model)
    found = tokens.tokenize(context, 0, prompts, {}, length)
    return found.ids.reshape(len(prompts), -1), found.mask.reshape(len(prompts), -1)


def judged(arrays, call="text_encoder", model="tiny", **params):
    """Return the rows of a call of an encoder, what of it was compared, and why not the rest."""
    calls = {call: {f"input.{name}": x for name, x in arrays.items()}}
    context = context_of(calls, model, params={"prompt": "a cat"} | params)
    rows = [*tokens.judge_tokens(context)]
    entry = entry_of(context, call)
    marked = {name for name in arrays if context.ledger.has(entry, name)}
    reasons = {role: why for (_, _, role), why in context.ledger.reasons.items() if role in arrays}
    found = [(row.layer, row.verdict, row.cause or row.note, row.error) for row in rows]
    return found, marked, reasons, context.ledger.wrong_tokens


def test_ids_are_those_of_the_prompts():
    ids, _ = ids_of("a cat", "")
    right = ([("", "equal", "", 0.0)], {"input_ids"}, {}, False)
    assert judged({"input_ids": ids}) == right  # the empty prompt is always known
    assert judged({"input_ids": ids[:1]}) == right
    assert judged({"input_ids": ids_of("a dog")[0]}, negative_prompt="a dog") == right
    assert judged({"ids": ids})[1] == {"ids"}
    other = ids.copy()
    other[0, 1] += 1
    (row,), marked, _, wrong = judged({"input_ids": other})
    assert row[1:3] == ("differs", f"a single token: id {other[0, 1]} instead of {ids[0, 1]}")
    assert row[3] == 1 / ids.shape[1] and marked == {"input_ids"} and wrong


@pytest.mark.parametrize("encoder", ["text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("prompt", ["a cat", None])
def test_recorded_tokens_are_those_of_a_call(encoder, prompt):
    """Of any encoder, if a prompt has one call for all of them; otherwise of the first."""
    ids, _ = ids_of("a cat", "a dog")
    attributes = {} if prompt is None else {"tokens.000": {"prompt": prompt}}

    def judged_of(own, read, role="input_ids"):
        calls = {"tokens.000": {"output.ids": own}, f"{encoder}.000": {f"input.{role}": read}}
        context = context_of(calls, "sd3-tiny", attributes=attributes)
        rows = [row.verdict for row in tokens._judge_given(context)]
        reasons = [why for (name, *_), why in context.ledger.reasons.items() if "tokens" in name]
        return rows, context.ledger.has(entry_of(context, "tokens.000"), "ids", "output"), reasons

    equal = ([], True, [])
    assert judged_of(ids[:1], ids) == judged_of(ids[::-1], ids) == equal
    if encoder != "text_encoder" and prompt is None:  # nothing reads them
        assert judged_of(ids + 1, ids) == equal
        return
    assert judged_of(ids + 1, ids) == judged_of(ids[:, 1:], ids) == (["differs"], True, [])
    why = "the ids of a call of text_encoder were not recorded"
    assert judged_of(ids, ids, "hidden") == ([], False, [why])


def test_without_prompts_the_ids_are_given():
    ids, _ = ids_of("a cat")
    assert judged({"input_ids": ids + 1}, prompt=None) == ([], {"input_ids"}, {}, False)


def test_a_request_may_choose_how_many_tokens_there_are():
    ids, _ = ids_of("a cat")
    short = ids[:, :-3]
    rows, marked, _, wrong = judged({"input_ids": short}, max_sequence_length=ids.shape[1])
    note = f"{short.shape[1]} tokens instead of {ids.shape[1]}"
    assert rows == [("", "differs", note, np.inf)] and marked == {"input_ids"} and wrong


def test_masks_hide_the_padding():
    model = "z-image-tiny"
    ids, mask = ids_of("a cat", "dog on it", model=model)
    both = {"prompt": ["a cat", "dog on it"]}
    assert (mask[0] != mask[1]).any() and (mask == 0).any()

    def row_of(found):
        rows, marked, *_ = judged({"input_ids": ids, "attention_mask": found}, model=model, **both)
        assert rows[0] == ("", "equal", "", 0.0) and marked == {"input_ids", "attention_mask"}
        return rows[1]

    assert row_of(mask) == ("attention_mask", "equal", "", 0.0)
    assert row_of(3 * mask) == ("attention_mask", "equal", "", 0.0)  # all but 0 is read
    differs = ("attention_mask", "differs")
    share = float((mask == 0).mean())
    assert row_of(1 - mask) == (*differs, "the mask is inverted", 1.0)
    assert row_of(0 * mask + 1) == (*differs, "padding is not masked", share)
    changed = float((mask != mask[::-1]).mean())
    assert row_of(mask[::-1]) == (*differs, "rows of the mask are exchanged", changed)
    assert row_of(mask[:, :-1]) == (*differs, "", np.inf)
    assert row_of(0 * mask) == (*differs, "everything is masked", 1.0 - share)
    alone, _marked, *_ = judged({"input_ids": ids}, model=model, **both)
    assert alone == [("", "equal", "", 0.0)] and model_of(model).config.text_encoders


def test_parts_of_a_batch_of_three_belong_to_perturbed_attention():
    x = np.ones((1, 4, 8, 8))

    def parts_of(roles, count):
        calls = {
            "unet.000": {"input.sample": np.concatenate([x] * count), "output": x},
            "guidance.000": {f"input.{role}": x for role in roles} | {"output": x},
            "sampler.000": {"input.model_output": x, "input.sample": x},
        }
        context = context_of(calls)
        (evaluation,) = context.evaluations
        return text_inputs.parts_of_batch(context, evaluation, 1)

    halves = ("uncond", "cond")
    assert parts_of(("uncond", "cond", "perturbed"), 3) == [(*halves, "cond")]
    assert parts_of(("uncond", "cond"), 2) == [halves]
    assert parts_of(("uncond", "cond"), 3) == []
    assert parts_of(("uncond", "cond", "perturbed"), 4) == []


# -- runs of which some calls were recorded -------------------------------------------------------

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
COME_FROM = {  # the inputs of a call, and the calls that lead to them
    "sampler": {
        "sample": ("initial", "schedule"), "x": ("initial", "schedule"),
        "timestep": ("schedule",), "sigma": ("schedule",), "sigma_next": ("schedule",),
        "model_output": ("unet",), "prediction": ("unet",), "prediction.1": ("unet",),
        "x0": ("unet",), "x_at": ("unet",), "sigma_at.1": ("unet",), "noise": None,
    },
    "guidance": {"cond": ("unet",), "uncond": ("unet",), "scale": ("unet",)},
    "unet": {
        **dict.fromkeys(("sample", "input", "x", "timestep", "t", "guidance"), ("sampler",)),
        **dict.fromkeys(
            ("encoder_hidden_states", "text_embeds", "pooled_projections", "context"), ENCODERS
        ),
        "other": None,
    },
    "vae.decode": {"latents": ("sampler",)},
    "vae.encode": {"image": ("inputs",)},
    "scale_input": {"sample": ("sampler",), "timestep": ("sampler",)},
    "add_noise": {"original_samples": ("vae.encode",), "noise": ("vae.encode",)},
    "mask": {"mask": None},
}  # fmt: skip


@pytest.mark.parametrize("kind", COME_FROM)
def test_inputs_are_given_if_what_leads_to_them_was_left_out(kind):
    """Nothing is given in a whole run, nor where a call that leads to it was recorded."""
    roles = COME_FROM[kind]
    every = {source for sources in roles.values() for source in sources or ()}

    def given(others=(), **manifest):
        calls = {other: {"output": np.ones(1)} for other in others}
        calls[kind] = {f"input.{role}": np.ones(1) for role in roles}
        port = context_of(calls, **manifest).port
        mark_selected(port, ledger := Ledger(), "unet")
        return {role for role in roles if ledger.has(port.find(kind), role)}

    known = {role for role, sources in roles.items() if sources}
    for selection in ({"calls": [kind]}, {"without": ["other"]}):
        assert given(selection=selection) == known
        for source in every:
            left = {role for role, sources in roles.items() if source in (sources or ())}
            assert given([source], selection=selection) == known - left
    assert given(selection={"layers": [""]}) == given() == set()


def test_an_encoder_of_two_that_read_the_prompts_of_other_rows(monkeypatch):
    """Each row is the nearest of those that the prompts of all rows give, for each encoder."""
    texts = [("a", "a"), ("b", "b"), ("c", "c")]
    states = {name: normal(i, 3, 4) for i, name in enumerate("abc")}

    def arrays(context, request, prompts, length):
        if "?" in prompts:
            raise prompt_arrays.NotKnown("it was not recorded")
        return PromptArrays(np.concatenate([states[name] for name in prompts], axis=-1), None)

    monkeypatch.setattr(text_inputs, "arrays_of_prompts", arrays)
    config = SimpleNamespace(text_encoders=("first", "second"))
    context = SimpleNamespace(model=SimpleNamespace(config=config))
    read = [("a", "c"), ("b", "a"), ("c", "b")]
    got = np.stack([arrays(None, {}, prompts, 3).states for prompts in read])
    got += 1e-3 * normal(9, *got.shape)

    def found(*prompts):
        expected = ExpectedText(("cond",), {}, {}, prompts)
        return dict(text_inputs._of_other_prompts(context, "text", got, expected))

    [first, second] = found(*texts).items()
    right = [arrays(None, {}, prompts, 3).states for prompts in read]
    assert second[0] == "rows of prompts are exchanged in text_encoder_2"
    assert np.array_equal(second[1], np.stack(right))
    assert first[0] == "rows of prompts are exchanged in text_encoder"
    assert not np.array_equal(first[1], np.stack(right))
    assert not found(*texts[:2]) and not found(*texts[:2], ("?", "?"))
