"""The text that a denoiser is given: which rows, which variants and which reasons a run gets."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

from ldmref.locate.faults.text import pool_elsewhere
from ldmref.locate.findings import Row
from ldmref.locate.pipeline import text_inputs, tokens
from ldmref.locate.pipeline.prompt_arrays import NotKnown, NotRead, PromptArrays
from ldmref.locate.pipeline.text_inputs import KINDS, ExpectedText

X = normal(0, 1, 4, 8, 8)
BOTH = ("uncond", "cond")
ROWS = [PromptArrays(normal(i, 3, 4), normal(9 + i, 6), np.array([1, 1, 0])) for i in range(4)]
BARE = [x._replace(mask=None) for x in ROWS]


def test_the_arrays_of_a_text_and_what_replaces_them():
    assert {kind: tuple(x) for kind, x in KINDS.items()} == {
        "text": ("context", "states", "prompt_embeds"),
        "pooled text": ("pooled", "pooled", "pooled_prompt_embeds"),
        "mask of the text": ("mask", "mask", "prompt_mask"),
    }


def test_arrays_of_a_batch():
    batch = ExpectedText(BOTH, {"cond": ROWS[:1], "uncond": ROWS[1:2]})
    for kind in KINDS:
        field = KINDS[kind].field
        right = np.stack([getattr(ROWS[i], field) for i in (1, 0)])
        assert np.array_equal(batch.array(kind), right)
        assert np.array_equal(batch.array(kind, ("cond", "cond")), right[[1, 1]])
    assert batch.request == {} and batch.prompts == ()
    half = ExpectedText(BOTH, {"cond": ROWS[:1], "uncond": BARE[:1]})
    assert half.array("mask of the text") is None and half.array("text") is not None
    assert ExpectedText(BOTH, {"cond": [], "uncond": []}).array("text") is None


# -- all calls of a run ---------------------------------------------------------------------------


class Recorded:
    """What `judge_text` asks for, in place of what encoders say."""

    def __init__(self, monkeypatch, fail=None):
        self.expected, self.judged, self.fail = [], [], fail
        monkeypatch.setattr(text_inputs, "_expected", self.expect)
        monkeypatch.setattr(text_inputs, "_judge_rows", self.judge)

    def expect(self, context, network, roles, images, length):
        self.expected.append((network.call, roles, images, length))
        if self.fail is not None:
            raise self.fail
        return "expected"

    def judge(self, context, network, kind, got, expected):
        assert expected == "expected"
        self.judged.append((network.call, kind))
        return Row(network.call, "", kind, 1.0, verdict="differs")


def text_run(*networks, state=X, model="tiny", steps=None, **manifest):
    """Return the context of a run with a step for each of these inputs of the denoiser."""
    kind = context_of({}, model).denoiser
    calls = {}
    for i, given in enumerate(networks):
        named = {f"input.{name}": x for name, x in given.items()}
        calls[f"{kind}.{i:03}"] = {"input.sample": X} | named
        step = {} if (steps or {}).get(i, state) is None else {"input.sample": state}
        calls[f"sampler.{i:03}"] = step | {"input.model_output": X}
    return context_of(calls, model, **manifest)


TEXT = {"encoder_hidden_states": normal(1, 1, 7, 4)}
OTHER = {"encoder_hidden_states": normal(2, 1, 7, 4)}


def test_every_other_text_is_judged(monkeypatch):
    found = Recorded(monkeypatch)
    run = text_run(TEXT, {}, TEXT, OTHER, steps={0: None})
    rows = [*text_inputs.judge_text(run)]
    assert [row.call for row in rows] == ["unet.002", "unet.003"]
    alone = ("cond",)
    assert found.expected == [("unet.002", alone, 1, 7), ("unet.003", alone, 1, 7)]
    assert not run.ledger.has(entry_of(run, "unet.000"), "encoder_hidden_states")
    again = text_run(TEXT, OTHER, TEXT)
    assert len([*text_inputs.judge_text(again)]) == 2
    for call in again.calls("unet"):
        assert again.ledger.has(call, "encoder_hidden_states")


def test_kinds_of_texts_are_judged_apart(monkeypatch):
    found = Recorded(monkeypatch)
    x = normal(1, 1, 7)
    given = {"pooled_projections": x, "encoder_hidden_states": x}
    run = text_run(given, given, model="flux-tiny")
    assert [row.kind for row in text_inputs.judge_text(run)] == ["text", "pooled text"]
    assert [length for *_, length in found.expected] == [7, 0]
    mask = {"encoder_attention_mask": x, "encoder_hidden_states": x}
    rows = [*text_inputs.judge_text(text_run(mask, model="z-image-tiny"))]
    assert [row.kind for row in rows] == ["text", "mask of the text"]
    assert [length for *_, length in found.expected[2:]] == [7, 7]


def test_the_same_text_of_another_half_is_judged_again(monkeypatch):
    found = Recorded(monkeypatch)
    state = {"input.sample": X}
    calls = {
        "unet.000": state | {f"input.{name}": x for name, x in TEXT.items()},
        "unet.001": state | {f"input.{name}": x for name, x in TEXT.items()},
        "guidance.000": {"input.uncond": X, "input.cond": X},
        "sampler.000": {"input.x": X},
    }
    assert len([*text_inputs.judge_text(context_of(calls))]) == 2
    assert [roles for _, roles, *_ in found.expected] == [("uncond",), ("cond",)]


def test_what_is_not_known_is_a_reason(monkeypatch):
    found = Recorded(monkeypatch, NotKnown("it was lost"))
    run = text_run(TEXT, TEXT)
    assert [*text_inputs.judge_text(run)] == [] and len(found.expected) == 2
    for call in run.calls("unet"):
        key = (call.name, "input", "encoder_hidden_states")
        assert run.ledger.reasons[key] == "it was lost"
        assert not run.ledger.has(call, "encoder_hidden_states")


def test_a_batch_that_is_not_of_the_images_is_a_reason(monkeypatch):
    found = Recorded(monkeypatch)
    run = text_run({"sample": np.concatenate([X] * 4), **TEXT}, TEXT)
    assert [row.call for row in text_inputs.judge_text(run)] == ["unet.001"]
    assert [call for call, *_ in found.expected] == ["unet.001"]
    first = entry_of(run, "unet.000")
    assert "batch" in run.ledger.reasons[(first.name, "input", "encoder_hidden_states")]


@pytest.mark.parametrize("wrong_tokens", [False, True])
def test_a_prompt_that_was_not_encoded_differs_once(wrong_tokens, monkeypatch):
    """Unless the tokens of an encoder are wrong, which is a row already."""
    found = Recorded(monkeypatch, NotRead("no call read it"))
    run = text_run(TEXT, TEXT, OTHER)
    run.ledger.wrong_tokens = wrong_tokens
    rows = [*text_inputs.judge_text(run)]
    assert [(row.call, row.kind, row.verdict, row.error, row.note) for row in rows] == (
        []
        if wrong_tokens
        else [(f"unet.00{i}", "text", "differs", math.inf, "no call read it") for i in (0, 2)]
    )
    assert len(found.expected) == (3 if wrong_tokens else 2) and not run.ledger.reasons
    for call in run.calls("unet"):
        assert run.ledger.has(call, "encoder_hidden_states")


@pytest.mark.parametrize(
    ("params", "diffusers", "given"),
    [
        ({"prompt_embeds": "a"}, False, True),
        ({"negative_prompt_embeds": "a"}, False, True),
        ({"prompt_embeds": "a"}, True, False),
        ({"prompt_embeds": None}, False, False),
        ({"prompt": "a"}, False, False),
    ],
)
def test_states_that_a_request_of_ldmref_gave(params, diffusers, given):
    context = SimpleNamespace(is_diffusers=diffusers, params=params)
    assert text_inputs._gave_states(context) is given


def test_given_states_are_compared_in_all_calls(monkeypatch):
    Recorded(monkeypatch)
    calls = {
        f"{name}.{i:03}": {"input.sample": X, **more}
        for i, more in enumerate([{f"input.{k}": x for k, x in y.items()} for y in (TEXT, OTHER)])
        for name in ("unet", "sampler")
    }
    run = context_of(calls, params={"prompt_embeds": "a"})
    assert [*text_inputs.judge_text(run)] == []
    assert all(run.ledger.has(call, "encoder_hidden_states") for call in run.calls("unet"))


def test_a_callback_may_change_a_text(monkeypatch):
    Recorded(monkeypatch)
    request = {"callback_on_step_end": "f", "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    given = TEXT | {"pooled_projections": normal(3, 1, 5)}
    rows = [*text_inputs.judge_text(text_run(given, model="flux-tiny", request=request))]
    assert [row.verdict for row in rows] == ["not judged", "differs"]


# -- the parts of a batch -------------------------------------------------------------------------


NUMBERS = ("scale", "rescale", "sigma", "skip_scale", "perturbed_scale")  # of guidance


def parts_of(sizes, roles=(), diffusers=False, images=2, halves=None):
    state = np.zeros((images, 4, 8, 8))
    calls = {
        f"unet.{i:03}": {"output": state} if n is None else {"input.sample": np.zeros((n, 4, 8, 8))}
        for i, n in enumerate(sizes)
    }
    calls["guidance.000"] = {f"input.{role}": state for role in roles} | {"output": state}
    role = "input.model_output" if diffusers else "input.prediction"
    calls["sampler.000"] = {role: state, "input.x": state}
    context = context_of(calls, attributes={"guidance.000": {"halves": halves}})
    (evaluation,) = context.evaluations
    return text_inputs.parts_of_batch(context, evaluation, images)


BATCHES = [
    ([2], (), False, [("cond",)]),
    ([2], ("uncond",), False, [("uncond",)]),
    ([2], ("uncond", *NUMBERS), False, [("uncond",)]),
    ([4], ("cond", "uncond", *NUMBERS), False, [BOTH]),
    ([4], ("cond", "skipped_7"), False, [("cond", "cond")]),
    ([4], ("cond",), False, [BOTH]),
    ([4], ("uncond", "skipped_7"), False, [BOTH]),
    ([2, 2], (), True, [("cond",), ("uncond",)]),
    ([2, 2], ("uncond", "cond"), False, [("uncond",), ("cond",)]),
    ([2, 2], (), False, []),
    ([4, 2], (), False, [BOTH, ("cond",)]),
    ([6], ("cond", "uncond", "perturbed"), False, [(*BOTH, "cond")]),
    ([6], ("uncond", "cond", "skipped_7"), False, [("uncond", "cond", "cond")]),
    ([6], ("cond",), False, []),
    ([2, 4], ("cond", "uncond", "skipped_7"), False, [("cond",), ("uncond", "cond")]),
    ([2, 2, 2], ("uncond", "cond", "skipped_7"), False, [("uncond",), ("cond",), ("cond",)]),
    ([4, 4], ("uncond", "cond", "skipped_7", "perturbed"), False, [BOTH, ("cond", "cond")]),
    ([3], ("cond",), False, []),
    ([2, 5], ("cond", "uncond"), False, []),
    ([None, 2], ("cond", "uncond"), False, []),
    ([2, 2, 2], ("uncond", "cond"), False, []),
]


def test_the_parts_of_batches():
    for sizes, roles, diffusers, parts in BATCHES:
        assert parts_of(sizes, roles, diffusers) == parts


def test_the_order_of_halves_that_was_recorded():
    other = ["cond", "uncond"]
    assert parts_of([4], BOTH, halves=other) == [("cond", "uncond")]
    assert parts_of([4, 2], BOTH, halves=other) == [("cond", "uncond"), ("cond",)]
    perturbed = parts_of([6], (*BOTH, "perturbed"), halves=other)
    assert perturbed == [("cond", "uncond", "cond")]


@pytest.mark.parametrize(
    ("role", "texts"),
    [("cond", ("cond",)), ("uncond", ("uncond",)), ("skipped_7_8", ("cond",)),
     ("attended_5.0_2.5", ("uncond", "cond")), ("perturbed", ("cond",))],
)  # fmt: skip
def test_the_texts_that_a_prediction_reads(role, texts):
    assert text_inputs._texts_of(role) == texts


def test_texts_of_other_names_are_those_of_the_prompt(monkeypatch):
    assert text_inputs._texts_of("x") == ("cond",)
    read = SimpleNamespace(texts=("uncond", "other"))
    monkeypatch.setattr(text_inputs, "read_prediction", lambda role: read)
    assert text_inputs._texts_of("x") == ("uncond", "cond")


# -- what a call should be given ------------------------------------------------------------------


def test_the_request_of_a_branch_holds_from_its_first_step():
    step = {"input.x": X}
    calls = {}
    for i in range(2):
        calls |= {f"schedule.{i:03}": {"output.sigmas": np.ones(2)}}
        calls |= {f"unet.{i:03}": {"input.sample": X}, f"sampler.{i:03}": step}
    branch = {"trunk": {"prompt": "a", "steps": 2}, "changes": {"prompt": "b"}}
    run = context_of(calls, branch=branch, params={"prompt": "c"})
    first, second = (entry_of(run, f"unet.{i:03}") for i in range(2))
    assert text_inputs.request_at(run, first) == {"prompt": "a", "steps": 2}
    assert text_inputs.request_at(run, second) == {"prompt": "b", "steps": 2}
    plain = context_of(calls, params={"prompt": "c"}, request={"steps": 3})
    found = text_inputs.request_at(plain, entry_of(plain, "unet.001"))
    assert found == {"prompt": "c", "steps": 3}
    elsewhere = context_of({"unet.009": {"output": X}}).port.find("unet.009")
    assert text_inputs.request_at(run, elsewhere) == {"prompt": "c"}


def test_what_a_call_should_be_given(monkeypatch):
    asked = []

    def arrays_of_side(context, request, side, images, length):
        asked.append((dict(request), side, images, length))
        return [ROWS[0]] if side == "cond" else [ROWS[1]]

    monkeypatch.setattr(text_inputs, "arrays_of_side", arrays_of_side)
    request = {"prompt": ["a", "b"], "negative_prompt": "n"}
    run = context_of({"unet.000": {"output": X}}, params=request)
    network = entry_of(run, "unet.000")
    found = text_inputs._expected(run, network, ("cond", "uncond", "cond"), 4, 7)
    assert found.roles == ("cond", "uncond", "cond") and found.request == request
    assert found.sides == {"cond": [ROWS[0]], "uncond": [ROWS[1]]}
    texts = ["a", "a", "b", "b", "n", "n", "n", "n", "a", "a", "b", "b"]
    assert found.prompts == tuple((text,) for text in texts)
    assert asked == [(request, side, 4, 7) for side in ("cond", "uncond")]
    asked.clear()
    found = text_inputs._expected(run, network, ("cond",), 2, 7)
    assert asked == [(request, side, 2, 7) for side in ("cond", "uncond")]
    empty = context_of({"unet.000": {"output": X}})
    assert text_inputs._expected(empty, network, ("cond",), 2, 7).prompts == ()


def test_several_runs_in_one_recording(monkeypatch):
    monkeypatch.setattr(text_inputs, "arrays_of_side", lambda *values: [ROWS[0]])
    run = context_of({"unet.000": {"output": X}}, requests=[{}, {}])
    network = entry_of(run, "unet.000")
    with pytest.raises(NotKnown):
        text_inputs._expected(run, network, ("cond",), 1, 2)
    part = replace(run, whole=run.port)
    assert text_inputs._expected(part, network, ("cond",), 1, 2).sides["cond"] == [ROWS[0]]
    one = context_of({"unet.000": {"output": X}}, requests=[{}])
    assert text_inputs._expected(one, network, ("cond",), 1, 2).roles == ("cond",)


# -- comparison -----------------------------------------------------------------------------------


def judged(kind, got, expected, model="tiny", **calls):
    run = context_of({"unet.000": {"input.sample": X}, **calls}, model)
    return text_inputs._judge_rows(run, entry_of(run, "unet.000"), kind, got, expected)


def batch_of(rows=BARE, roles=BOTH, **more):
    return ExpectedText(roles, {"cond": rows[:2], "uncond": rows[2:]}, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_texts_say_where_they_come_from(kind):
    batch = batch_of(ROWS)
    right = batch.array(kind)
    row = judged(kind, right, batch)
    assert (row.call, row.kind, row.verdict) == ("unet.000", kind, "equal")
    assert row.segment.endswith(f"denoiser's {kind}")
    other = judged(kind, right[:, :2], batch)
    assert (other.verdict, other.error, other.segment) == ("differs", math.inf, row.segment)
    assert (other.call, other.kind) == ("unet.000", kind)
    assert str(right.shape) in other.note and str(right[:, :2].shape) in other.note


def test_texts_that_prompts_do_not_have():
    with pytest.raises(NotKnown):
        judged("mask of the text", np.ones((4, 3)), batch_of())


def test_padding_of_a_text_does_not_count():
    batch = batch_of(ROWS)
    right = batch.array("text")
    got = right.copy()
    got[:, 2] = 7.0
    assert judged("text", got, batch).verdict == "equal"
    other = right[[2, 3, 0, 1]].copy()
    other[:, 2] = 7.0
    assert judged("text", other, batch).cause == "prompt and negative prompt are exchanged"
    got[0, 1, 1] += 1.0
    assert judged("text", got, batch).verdict == "differs"
    scaled = [x._replace(mask=2 * x.mask) for x in ROWS]  # every number but 0 is read
    got = right.copy()
    got[:, 2] = 7.0
    assert judged("text", got, batch_of(scaled)).verdict == "equal"


def test_one_half_alone_may_be_that_of_the_other():
    alone = batch_of(roles=("cond",))
    other = np.stack([x.states for x in BARE[2:]])
    row = judged("text", other, alone)
    assert row.verdict == "differs" and "other half" in row.cause
    words = [words for words, _ in text_inputs._arranged("text", other, alone, other)]
    assert len(words) == 2 and "halves" not in words[0] + words[1]


def test_texts_that_are_arranged_in_other_ways():
    batch = batch_of()
    right = batch.array("text")
    got = right[[3, 1, 2, 0]] + 1e-9
    found = [*text_inputs._arranged("text", got, batch, right)]
    assert [words for words, _ in found] == [
        "prompt and negative prompt are exchanged",
        "both halves are those of the prompt",
        "both halves are those of the negative prompt",
        "rows of prompts are exchanged",
    ]
    orders = ([2, 3, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [3, 1, 2, 0])
    for (_, x), order in zip(found, orders, strict=True):
        assert np.array_equal(x, right[order])


def test_sides_of_other_shapes_are_no_rows_of_a_text():
    small = [x._replace(states=x.states[:2], pooled=None) for x in BARE[2:]]
    batch = ExpectedText(("cond",), {"cond": BARE[:2], "uncond": small})
    right = batch.array("text")
    found = dict(text_inputs._arranged("text", right[::-1], batch, right))
    assert np.array_equal(found.pop("rows of prompts are exchanged"), right[::-1])
    ((_, other),) = found.items()
    assert other.shape == (2, 2, 4)
    pooled = batch.array("pooled text")
    found = dict(text_inputs._arranged("pooled text", pooled[::-1], batch, pooled))
    assert [*found] == ["rows of prompts are exchanged"]
    assert [*text_inputs._arranged("text", right, batch, right[:, :, :3])][1:] == []


def test_rows_of_prompts_whose_padding_is_another():
    batch = batch_of(ROWS, roles=("cond",))
    right = batch.array("text")
    got = right[::-1].copy()
    got[:, 2] = 50.0
    found = dict(text_inputs._arranged("text", got, batch, right))["rows of prompts are exchanged"]
    assert np.array_equal(found[:, :2], right[::-1, :2]) and (found[:, 2] == 50.0).all()
    assert judged("text", got, batch).cause == "rows of prompts are exchanged"
    row = text_inputs._row_of(ROWS[0], "pooled text", got[0, 0])
    assert np.array_equal(row, ROWS[0].pooled)
    assert np.array_equal(text_inputs._row_of(BARE[0], "text", got[0]), BARE[0].states)


def test_a_mask_is_that_of_a_fault_before_it_is_that_of_other_rows():
    rows = [x._replace(mask=np.array(m)) for x, m in zip(
        ROWS, ([1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 1]), strict=True
    )]  # fmt: skip
    batch = batch_of(rows, roles=("cond",))
    ones = np.ones((2, 3), int)
    assert judged("mask of the text", ones, batch).cause == "padding is not masked"
    both = batch_of(rows)
    swapped = both.array("mask of the text")[[2, 3, 0, 1]]
    cause = judged("mask of the text", swapped, both).cause
    assert cause == "prompt and negative prompt are exchanged"


@pytest.mark.parametrize("kind", KINDS)
def test_changed_texts(kind):
    run = context_of({})
    x = batch_of(ROWS).array(kind)
    found = dict(text_inputs._changed(run, kind, x))
    assert not found[f"the {kind} is zero"].any()
    moved = {"the tokens are one place later", "the tokens are one place earlier"}
    assert moved <= found.keys() or kind != "text"
    assert not (moved & found.keys()) or kind == "text"
    assert ("the mask is inverted" in found) == (kind == "mask of the text")
    if kind == "text":
        assert np.array_equal(found["the tokens are one place later"][:, 1:], x[:, :-1])
        assert np.array_equal(found["the tokens are one place earlier"][:, :-1], x[:, 1:])


def test_two_encoders_side_by_side_in_another_order():
    run = context_of({}, "sd3-tiny")
    first, second = (config.hidden_size for config in run.model.config.text_encoders[:2])
    x = normal(0, 1, 5, first + second + 3)
    found = dict(text_inputs._changed(run, "text", x))
    right = [x[..., first : first + second], x[..., :first], x[..., first + second :]]
    words = "the text encoders are joined in another order"
    assert np.array_equal(found[words], np.concatenate(right, axis=-1))
    assert words not in dict(text_inputs._changed(run, "mask of the text", np.ones((1, 3), int)))
    assert words not in dict(text_inputs._changed(context_of({}, "flux-tiny"), "text", x))


# -- one encoder of several -----------------------------------------------------------------------


def test_rows_that_one_encoder_took_from_other_prompts(monkeypatch):
    """The rows of one encoder are exchanged, those of the other are right."""
    states = {name: normal(i, 3, 4) for i, name in enumerate("ab")}
    asked = []

    def arrays(context, request, prompts, length):
        asked.append((request, prompts, length))
        joined = np.concatenate([states[name] for name in prompts], axis=-1)
        return PromptArrays(joined, joined[0])

    monkeypatch.setattr(text_inputs, "arrays_of_prompts", arrays)
    prompts = (("a", "a"), ("b", "b"))
    batch = ExpectedText(("cond",), {}, {"steps": 3}, prompts)
    run = context_of({}, "flux-tiny")
    got = np.stack([arrays(None, {}, pair, 3).states for pair in (("a", "b"), ("b", "a"))])
    asked.clear()
    found = dict(text_inputs._of_other_prompts(run, "text", got, batch))
    second = found["rows of prompts are exchanged in text_encoder_2"]
    assert np.array_equal(second, got)
    assert {(length, str(request)) for request, _, length in asked} == {(3, "{'steps': 3}")}
    assert len(asked) == len({pair for _, pair, _ in asked}) == 4  # each once
    pooled = dict(text_inputs._of_other_prompts(run, "pooled text", got[:, 0], batch))
    assert np.array_equal(pooled["rows of prompts are exchanged in text_encoder_2"], got[:, 0])
    assert asked[-1][2] == 0
    assert not [*text_inputs._of_other_prompts(context_of({}), "text", got, batch)]
    cause = judged("text", got, ExpectedText(
        ("cond",), {"cond": [arrays(None, {}, pair, 3) for pair in prompts], "uncond": []}, {},
        prompts,
    ), "flux-tiny").cause  # fmt: skip
    assert cause == "rows of prompts are exchanged in text_encoder_2"


def test_rows_of_several_shapes_are_no_text(monkeypatch):
    shapes = {"a": 3, "b": 2}

    def arrays(context, request, prompts, length):
        return PromptArrays(np.ones((shapes[prompts[1]], 4)), None)

    monkeypatch.setattr(text_inputs, "arrays_of_prompts", arrays)
    batch = ExpectedText(("cond",), {}, {}, (("a", "a"), ("b", "b")))
    run = context_of({}, "flux-tiny")
    got = np.ones((2, 3, 4))
    words = [words for words, _ in text_inputs._of_other_prompts(run, "text", got, batch)]
    assert words == ["rows of prompts are exchanged in text_encoder_2"]


def test_the_states_of_other_tokens_that_a_pipeline_pools():
    config = model_of("flux-tiny").config.text_encoders[0]
    ids = np.array([[1, 4, 2, 0], [1, 5, 6, 2]])
    states = normal(0, 2, 4, 16)
    calls = {
        "text_encoder.000": {"input.input_ids": ids[:1], "output": states[:1]},
        "text_encoder.001": {"output": states},
        "text_encoder.002": {"input.input_ids": ids},
        "text_encoder.003": {"input.input_ids": ids, "output": states[..., :5]},
        "text_encoder.004": {"input.input_ids": ids[:1], "output": states},
        "text_encoder.005": {"input.input_ids": ids[1:], "output": states[1:]},
    }
    run = context_of(calls, "flux-tiny")
    expected = dict(pool_elsewhere(config, ids, states))
    for order in ([0, 1], [1, 0], [1, 1]):
        got = expected["pooled at the first token instead of the first end token"][order] + 1e-6
        found = dict(text_inputs._pooled(run, "pooled text", got))
        assert found.keys() == expected.keys()
        right = states[order, 0]
        assert np.array_equal(
            found["pooled at the first token instead of the first end token"], right
        )
    assert not [*text_inputs._pooled(run, "text", states)]
    assert not [*text_inputs._pooled(context_of({}, "flux-tiny"), "pooled text", states[:, 0])]
    rows = [PromptArrays(normal(9, 3, 4), x) for x in normal(8, 2, 16)]
    batch = ExpectedText(("cond",), {"cond": rows, "uncond": []})
    row = judged("pooled text", states[:, 0], batch, "flux-tiny", **calls)
    assert row.cause == "pooled at the first token instead of the first end token"


# -- networks without steps -----------------------------------------------------------------------


def ids_of(*prompts, model="tiny"):
    found = tokens.tokenize(context_of({}, model), 0, prompts, {}, 0)
    return found.ids.reshape(len(prompts), -1)


PROMPTS = ("a cat", "a red dog")
STATES = normal(5, 2, 16, 32)


class Zeroed:
    """A model whose empty negative prompt is zeros."""

    def __init__(self, name="tiny"):
        self.own = model_of(name)
        self.config = replace(self.own.config, zero_empty_negative=True)

    def __getattr__(self, name):
        return getattr(self.own, name)


def alone(*given, encoded=PROMPTS, prompts=PROMPTS, model=None, **more):
    """Return the rows of calls of a U-Net whose trace has no steps."""
    rows = [PROMPTS.index(prompt) for prompt in encoded]
    calls = {"text_encoder": {"input.input_ids": ids_of(*encoded), "output": STATES[rows]}}
    for i, x in enumerate(given):
        calls[f"unet.{i:03}"] = {} if x is None else {"input.encoder_hidden_states": x}
    run = context_of(calls | more, params={"prompt": list(prompts)})
    run = run if model is None else replace(run, model=model)
    return [*text_inputs._judge_networks_alone(run)]


def test_each_row_of_a_network_alone_is_that_of_a_prompt():
    rows = alone(STATES[::-1], None, STATES[[1, 1, 0]], encoded=PROMPTS)
    assert [(row.call, row.kind, row.verdict) for row in rows] == [
        ("unet.000", "text", "equal"), ("unet.002", "text", "equal"),
    ]  # fmt: skip
    assert rows[0].segment.endswith("denoiser's text")


def test_a_fault_of_a_text_is_named_if_all_prompts_are_known():
    """The empty prompt is always among them."""
    ids = ids_of(*PROMPTS, "")
    states = np.concatenate([STATES, normal(6, 1, 16, 32)])
    whole = {"text_encoder": {"input.input_ids": ids, "output": states}}
    (row,) = alone(0 * STATES, **whole)
    assert (row.verdict, row.cause) == ("differs", "the text is zero")
    (row,) = alone(STATES[:, ::-1], **whole)
    assert row.verdict == "differs" and row.note == ""
    (row,) = alone(0 * STATES)  # the text of "" was not recorded
    assert (row.verdict, row.cause) == ("not judged", "") and "''" in row.note
    (row,) = alone(STATES)
    assert row.verdict == "equal" and row.note == ""
    zeroed = alone(0 * STATES, model=Zeroed(), **whole)
    assert [row.verdict for row in zeroed] == ["equal"]
    zeroed = alone(STATES, model=Zeroed(), **whole)
    assert [row.verdict for row in zeroed] == ["equal"]


def test_when_the_text_of_networks_alone_is_not_judged():
    assert alone(STATES, **{"sampler.000": {"input.x": X}}) == []
    assert alone(STATES, prompts=()) == []
    assert alone(STATES[:, :5]) == [] and alone(STATES[..., :5]) == []
    assert alone(STATES[:, :5], STATES)[0].call == "unet.001"
    unread = alone(STATES, **{"text_encoder": {"output": STATES}})
    assert unread == []


def test_a_prompt_that_is_not_known_is_named_in_short():
    long = "x" * 100
    (row,) = alone(STATES + 1.0, prompts=(*PROMPTS, "", long), encoded=PROMPTS)
    assert row.verdict == "not judged" and "x" * 39 in row.note and "x" * 40 not in row.note


def test_networks_alone_are_judged_before_the_steps_of_a_run():
    """`judge_text` yields the rows of a trace without steps."""
    ids = ids_of(*PROMPTS)
    calls = {
        "text_encoder": {"input.input_ids": ids, "output": STATES},
        "unet.000": {"input.encoder_hidden_states": STATES},
    }
    rows = [*text_inputs.judge_text(context_of(calls, params={"prompt": list(PROMPTS)}))]
    assert [(row.call, row.verdict) for row in rows] == [("unet.000", "equal")]


def test_all_kinds_of_texts_of_networks_alone():
    ids = ids_of(*PROMPTS, model="flux-tiny")
    first, second = normal(0, 2, 16, 16), normal(1, 2, 16, 20)
    pooled = normal(2, 2, 16)
    calls = {
        "text_encoder": {"input.input_ids": ids, "output": first, "output.pooled": pooled},
        "text_encoder_2": {"input.input_ids": ids, "output": second},
    }
    context = context_of(calls, "flux-tiny", params={"prompt": list(PROMPTS)})
    known = [text_inputs.arrays_of_prompts(context, {}, (x, x)) for x in PROMPTS]
    right = np.stack([x.pooled for x in known])
    calls["transformer.000"] = {
        "input.encoder_hidden_states": second[::-1], "input.pooled_projections": right
    }  # fmt: skip
    calls["transformer.001"] = {"input.pooled_projections": right[::-1, ::-1]}
    run = context_of(calls, "flux-tiny", params={"prompt": list(PROMPTS)})
    rows = [*text_inputs._judge_networks_alone(run)]
    assert [(row.call, row.kind, row.verdict) for row in rows] == [
        ("transformer.000", "text", "equal"),
        ("transformer.000", "pooled text", "equal"),
        ("transformer.001", "pooled text", "not judged"),
    ]
