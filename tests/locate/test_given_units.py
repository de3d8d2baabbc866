"""What networks are given, compared with what the original's pipeline gives them, by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from ldmref.locate.modules import given
from ldmref.locate.modules.given import GivenArray, _GivenJudge
from ldmref.trace import build_trace
from ldmref.trace.model import TraceEntry

NET, ENCODER = "transformer.000", "text_encoder.000"
STATES = np.random.default_rng(0).standard_normal((2, 6, 4))


def trace_of(arrays, **manifest):
    """Return a trace of arrays by `CALL/LAYER/SIDE.ROLE`."""
    return build_trace(
        {name: np.asarray(x) for name, x in arrays.items()},
        {"entries": [], **manifest},
    )


# -- which arrays they are ------------------------------------------------------------------------

MASK, FLAGS, IDS = np.ones((2, 6)), np.ones((2, 6), bool), np.ones((2, 6), int)


@pytest.mark.parametrize(
    ("call", "role", "x", "kind"),
    [
        (NET, "attention_mask", MASK, given.MASKS),
        (NET, "encoder_attention_mask", MASK, given.MASKS),
        (NET, "mask", MASK, given.MASKS),
        (NET, "seen", FLAGS, given.MASKS),
        (NET, "seen", FLAGS[0], None),
        (NET, "text_mask", MASK, given.MASKS),
        (ENCODER, "attention_mask", IDS, given.MASKS),
        (ENCODER, "input_ids", IDS, given.TOKENS),
        (ENCODER, "input_ids", IDS.astype(np.uint8), given.TOKENS),
        (ENCODER, "input_ids", IDS[0], None),
        (ENCODER, "input_ids", MASK, None),
        ("text_encoder_2.000", "input_ids", IDS, given.TOKENS),
        (NET, "input_ids", IDS, None),
        (NET, "encoder_hidden_states", STATES, given.TEXT),
        (NET, "text", STATES, given.TEXT),
        (NET, "prompt_embeds", STATES, given.TEXT),
        (NET, "context", STATES, given.TEXT),
        (NET, "cap_feats", STATES, given.TEXT),
        (NET, "pooled_projections", STATES, given.POOLED),
        (NET, "text_embeds", STATES, given.POOLED),
        (NET, "hidden_states", STATES, None),
        (NET, "timestep", MASK[0], None),
        (ENCODER, "text", STATES, None),
        ("guidance.000", "attention_mask", MASK, None),
    ],
)
def test_the_kind_of_what_is_given(call, role, x, kind):
    port = trace_of({f"{call}//input.{role}": x})
    found = [(array.role, array.kind) for array in given.list_given(port)]
    assert found == ([] if kind is None else [(role, kind)])


def test_of_layers_alone_the_masks_are_given():
    tensors = {
        f"{NET}/block/input.text": STATES,
        f"{NET}/block/input.mask": MASK,
        f"{NET}/block/input.context": STATES,
        f"{NET}/block/input.seen": FLAGS,
        f"{NET}//input.context": STATES,
    }
    port = trace_of(tensors)
    assert [x.key for x in given.list_given(port)] == [(NET, "", "context")]
    block = port.find(NET, "block")
    keys = [x.key for x in given.list_given(port, [block])]
    assert sorted(keys) == [(NET, "", "context"), (NET, "block", "mask"), (NET, "block", "seen")]


# -- what a pipeline can be asked for -------------------------------------------------------------


class Base:
    """A pipeline."""


class Pipeline(Base):
    """A kind of it."""


ASKED = {"pipeline": "Pipeline", "request": {"prompt": "a"}}
OBSTACLES = [
    ({}, ""),
    ({"pipeline": "Base"}, ""),
    ({"requests": [{}]}, ""),
    ({"request": {"callback_on_step_end": False, "prompt": "a"}}, ""),
    ({"request": {"callback_on_step_end": 1, "prompt": "a"}}, ""),
    ({"request": {"return_dict": True}}, ""),
    ({"pipeline": "Other"}, "the port is no Pipeline"),
    ({"pipeline": None}, "the port is no Pipeline"),
    ({"request": {}}, "request"),
    ({"request": None}, "request"),
    ({"request": ["prompt"]}, "request"),
    ({"requests": [{}, {}]}, "several runs"),
    ({"request": {"callback": True}}, "callback"),
    ({"request": {"callback_on_step_end": True}}, "callback"),
]


@pytest.mark.parametrize(("changed", "said"), OBSTACLES)
def test_why_a_pipeline_cannot_be_asked_for_the_same(changed, said):
    port = trace_of({f"{NET}//input.context": STATES}, **ASKED | changed)
    found = given.find_obstacle(port, Pipeline())
    assert said in found and bool(found) == bool(said)


def test_arrays_of_a_request_are_not_given_again():
    port = trace_of({"inputs.000//output.image": STATES, f"{NET}//input.x": STATES}, **ASKED)
    assert "arrays or images" in given.find_obstacle(port, Pipeline())


@pytest.mark.parametrize(
    ("ours", "theirs", "places"),
    [(1, 1, [0]), (1, 3, [0, 0, 0]), (2, 4, [0, 1, 0, 1]), (2, 3, [None] * 3), (0, 2, [None] * 2),
     (3, 6, [0, 1, 2, 0, 1, 2])],
)  # fmt: skip
def test_calls_of_later_steps_are_those_of_the_first(ours, theirs, places):
    own, port = (
        trace_of({f"{name}.{i:03}//input.x": STATES for name in ("net", "x") for i in range(n)})
        for n in (ours, theirs)
    )
    found = [given.call_of_first_step(port, own, call) for call in port.calls]
    wanted = [None if place is None else place for place in places]
    assert [None if call is None else call.number for call in found] == wanted * 2
    assert all(a.kind == b.kind for a, b in zip(found, port.calls, strict=True) if a is not None)


# -- how they are judged --------------------------------------------------------------------------


class Run:
    """A pipeline whose other selection of states gives another text, by the role of an input."""

    networks: Mapping[str, object] = {}

    def __init__(self, states=None, call=NET, role="x", foreign=()):
        self.tensors = {} if states is None else {f"{call}//input.{role}": states}
        self.foreign = {*foreign}

    def record(self, change):
        return trace_of(self.tensors)


def judged(kind, got, right, role="x", layer="", dtype="float32", run=None, own_role=None):
    """Return the rows of an array that a network was given, and whether it counts as judged."""
    call = ENCODER if kind == given.TOKENS else NET
    port = trace_of({f"{call}/{layer}/input.{role}": got})
    tensors = {} if right is None else {f"{call}/{layer}/input.{own_role or role}": right}
    own = trace_of(tensors)
    made: Any = run or Run()
    judge = _GivenJudge(port, own, made, dtype)
    array = GivenArray(port.find(call, layer), role, kind)
    rows = [*judge.judge(array)]
    assert judge.judged == ({array.key} if rows else set())
    for row in rows:
        assert (row.call, row.layer, row.kind) == (call, layer, kind)
        assert row.segment.endswith(role)
    return rows


def outcome(*args, **kwargs):
    (row,) = judged(*args, **kwargs)
    return row.verdict, row.error, row.cause


KINDS = [given.MASKS, given.TEXT, given.POOLED, given.TOKENS]
VALUES = {given.TOKENS: IDS, given.MASKS: MASK}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_the_same_is_equal(kind):
    x = VALUES.get(kind, STATES)
    assert outcome(kind, x, x) == ("equal", 0.0, "")
    assert outcome(kind, x, x, layer="block") == ("equal", 0.0, "")


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_pipeline_does_not_give_has_no_row(kind):
    x = VALUES.get(kind, STATES)
    assert judged(kind, x, None) == []
    if kind != given.MASKS:
        assert judged(kind, x, x, own_role="other") == []


def test_a_mask_that_the_pipeline_does_not_give_may_hide_nothing():
    hiding = MASK.copy()
    hiding[1, 4:] = 0.0
    for mask, verdict in ((MASK, "equal"), (hiding, "differs"), (FLAGS, "equal")):
        (row,) = judged(given.MASKS, mask, MASK, own_role="other", role="mask")
        assert row.verdict == verdict and row.note == "the original's pipeline gives it no mask"
        wanted = "a padding mask that should not be there"
        assert row.cause == (wanted if verdict == "differs" else "")


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_another_size_are_not_judged(kind):
    x = VALUES.get(kind, STATES)
    (row,) = judged(kind, x[:1], x)
    assert row.verdict == "not judged"
    assert row.note == given.ANOTHER_SIZE.format("x", x[:1].shape, x.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_other_encoders_are_not_judged(kind):
    x = VALUES.get(kind, STATES)
    foreign = ("text_encoder_2", "text_encoder")
    (row,) = judged(kind, x, x, run=Run(foreign=foreign))
    if kind in (given.TEXT, given.POOLED):
        assert row.verdict == "not judged"
        assert row.note.startswith("text_encoder, text_encoder_2 was called in another way")
    else:
        assert (row.verdict, row.note) == ("equal", "")


SEEN = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("got", "right", "verdict"),
    [
        (SEEN, SEEN.astype(bool), "equal"),
        (2 * SEEN, SEEN, "equal"),
        (np.where(SEEN, 0.0, -1e4), SEEN, "equal"),
        (np.where(SEEN, 0.0, -np.inf), np.where(SEEN, 0.0, -1e9), "equal"),
        (np.where(SEEN, 1.0, -1e4), SEEN, "equal"),
        (np.where(SEEN, -9999.0, 0.0), SEEN, "equal"),  # not far below zero
        (np.where(SEEN, 0, -10000), SEEN, "differs"),  # no numbers that are added
        (np.where(SEEN, 0.0, -9999.0), SEEN, "differs"),
        (1 - SEEN, SEEN, "differs"),
    ],
)
def test_masks_hide_the_same_in_several_forms(got, right, verdict):
    (row,) = judged(given.MASKS, got, right)
    assert row.verdict == verdict


@pytest.mark.parametrize("axes", [(), (1,), (1, 2)])
def test_masks_that_are_wrong_have_a_cause_and_a_share(axes):
    right = np.expand_dims(SEEN, axes)
    assert outcome(given.MASKS, 1 - right, right) == ("differs", 1.0, "the mask is inverted")
    ones = np.ones_like(right)
    assert outcome(given.MASKS, ones, right) == ("differs", 0.5, "padding is not masked")
    none = outcome(given.MASKS, 0 * right, right)
    assert none == ("differs", 0.5, "everything is masked")
    odd = right.copy()
    odd[0, ..., 1], odd[1, ..., 5] = 0, 1
    assert outcome(given.MASKS, odd, right) == ("differs", 2 / 12, "")


def test_masks_of_several_queries_have_no_cause():
    right = np.repeat(SEEN[:, None], 3, axis=1)
    assert outcome(given.MASKS, 1 - right, right) == ("differs", 1.0, "")
    assert outcome(given.MASKS, 1 - SEEN[0], SEEN[0]) == ("differs", 1.0, "")


def test_masks_of_another_length():
    (row,) = judged(given.MASKS, SEEN[:, :4], SEEN)
    assert (row.verdict, row.error, row.cause) == ("differs", np.inf, "")
    assert row.note == "shape (2, 4) instead of (2, 6)"


def test_tokens_are_all_right_or_not():
    other = IDS.copy()
    other[0, 2:5] = 7
    assert outcome(given.TOKENS, other, IDS) == ("differs", 0.25, "")
    assert outcome(given.TOKENS, IDS[:, :3], IDS) == ("differs", np.inf, "")


@pytest.mark.parametrize(("dtype", "unit"), [("float32", 2.0**-23), ("bfloat16", 2.0**-7)])
@pytest.mark.parametrize("kind", [given.TEXT, given.POOLED])
def test_states_are_allowed_the_rounding_of_their_format(kind, dtype, unit):
    largest = np.abs(STATES).max()
    allowed = given.NOISE * unit
    for by, verdict in ((0.9, "equal"), (1.1, "differs")):
        got = STATES.copy()
        got[0, 0, 0] += by * allowed * largest
        (row,) = judged(kind, got, STATES, dtype=dtype)
        assert row.verdict == verdict and row.allowed == allowed
        np.testing.assert_allclose(row.error, by * allowed, rtol=1e-6)


def test_states_that_were_selected_otherwise():
    other = STATES[::-1] * 2.0 + 1.0
    (row,) = judged(given.TEXT, other, STATES, run=Run(other))
    assert row.verdict == "differs" and row.cause.startswith("states of 1 layer")
    assert row.explained == 0.0 and row.note == ""
    for run in (Run(STATES + 1.0), Run(other, call="other.000"), Run(other, role="y")):
        (row,) = judged(given.TEXT, other, STATES, run=run)
        assert (row.verdict, row.cause, row.explained) == ("differs", "", None)
    exchanged = outcome(given.TEXT, STATES[::-1], STATES, run=Run(other))
    assert exchanged[::2] == ("differs", "rows of prompts are exchanged")


def test_tokens_of_a_text_that_were_dropped():
    (row,) = judged(given.TEXT, STATES[:, 2:], STATES)
    assert row.cause == "2 tokens too many dropped at the start" and row.explained == 0.0
    assert row.note == "shape (2, 4, 4) instead of (2, 6, 4)" and row.error == np.inf
    (row,) = judged(given.TEXT, STATES[:, :, :3], STATES)
    assert (row.verdict, row.cause) == ("differs", "")
    assert row.note == "shape (2, 6, 3) instead of (2, 6, 4)"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_states_that_are_not_finite_differ(value):
    got = STATES.copy()
    got[1, 2, 3] = value
    (row,) = judged(given.TEXT, got, STATES)
    assert (row.verdict, row.error, row.cause) == ("differs", np.inf, "")
    assert row.note.endswith("at [1, 2, 3], 1 of 48 values")


@pytest.mark.parametrize(
    ("call", "ours", "theirs", "verdict"),
    [
        ("tokens.000", {"ids": IDS}, {"ids": IDS}, "equal"),
        ("tokens_2.000", {"ids": IDS}, {"ids": IDS}, "equal"),
        ("tokens.000", {"ids": IDS + 1}, {"ids": IDS}, "differs"),
        ("tokens.000", {"mask": IDS}, {"ids": IDS}, None),
        ("tokens.000", {"ids": IDS}, {"mask": IDS}, None),
        ("tokens.000", {"ids": IDS}, None, None),
        ("other.000", {"ids": IDS}, {"ids": IDS}, None),
    ],
)
def test_recorded_tokens_are_those_of_the_pipeline(call, ours, theirs, verdict):
    port, own = (
        trace_of({f"{call}//output.{role}": x for role, x in (arrays or {}).items()})
        for arrays in (ours, theirs)
    )
    run: Any = Run()
    judge = _GivenJudge(port, own, run, "float32")
    entry = port.find(call)
    assert isinstance(entry, TraceEntry)
    rows = [*judge.judge_tokens(entry)]
    assert [row.verdict for row in rows] == ([] if verdict is None else [verdict])
    assert judge.judged == ({(call, "", "ids")} if rows else set())
    assert all((row.call, row.layer, row.kind) == (call, "", "tokens") for row in rows)


# -- a pipeline as the original -------------------------------------------------------------------


def original_of(made=None, pipe: Any = None, dtype="float32"):
    original = given.PipelineOriginal({}, pipe)
    if made is not None:
        original._runs[dtype] = made
    return original


@pytest.mark.parametrize(
    ("pipe", "why"), [(None, ""), (Pipeline(), ": the request of the run was not recorded")]
)
def test_masks_that_nothing_computes_are_not_judged(pipe, why):
    tensors = {
        f"{NET}//input.attention_mask": MASK,
        f"{NET}//input.context": STATES,
        f"{NET}/block/input.mask": MASK,
    }
    port = trace_of(tensors, pipeline="Pipeline")
    original = original_of(pipe=pipe)
    original.alone.append(port.find(NET, "block"))
    rows = [row for row in original.judge_host(port, "float32", []) if row.kind == given.MASKS]
    found = [(row.call, row.layer, row.verdict, row.note) for row in rows]
    assert found == [
        (NET, layer, "not judged", given.GIVEN.format(role) + why)
        for layer, role in (("", "attention_mask"), ("block", "mask"))
    ]


class Recorded(Run):
    """A pipeline's run whose further recordings have the layers that were asked for."""

    def record(self, change=None, layers=()):
        known = {f"{NET}/{layer}/input.mask": MASK for layer in layers}
        return trace_of(self.tensors | known)


def test_what_a_pipeline_gives_is_judged_with_the_layers_alone():
    tensors = {
        f"{NET}//input.context": STATES,
        f"{NET}//input.other_mask": MASK,
        f"{NET}/block/input.mask": MASK,
        "tokens.000//output.ids": IDS,
    }
    port = trace_of(tensors)
    run = Recorded()
    run.tensors = {f"{NET}//input.context": STATES, "tokens.000//output.ids": IDS}
    for alone in (False, True):
        original = original_of((run, trace_of(run.tensors)))
        if alone:
            original.alone.append(port.find(NET, "block"))
        rows = original.judge_host(port, "float32", [])
        found = [(row.call, row.layer, row.kind, row.verdict) for row in rows]
        expected = [(NET, "", given.TEXT, "equal"), (NET, "", given.MASKS, "equal")]
        expected += [(NET, "block", given.MASKS, "equal")] * alone
        assert found == [*expected, ("tokens.000", "", given.TOKENS, "equal")]


def test_calls_are_known_by_the_run_of_the_pipeline(monkeypatch):
    monkeypatch.setattr(given.ModuleOriginal, "whole_call", lambda *args: given.WholeCall())
    port = trace_of({f"{call}//input.x": STATES for call in (ENCODER, NET, "transformer.001")})
    encoder, first, second = port.calls
    run: Any = Run()
    hooks = (("norm", print),)
    run.encoders = {encoder: type("Call", (), {"arguments": {"a": 1}, "hooks": hooks})}
    run.settings = {("transformer", 0): {"block": {"scale": 2}}}
    own = trace_of({f"{NET}//input.x": STATES})
    original = original_of((run, own))
    whole = original.whole_call(port, encoder, "float32")
    assert whole.more == {"a": 1} and whole.hooks == hooks and whole.settings == {}
    for call in (first, second):
        assert original.whole_call(port, call, "float32").settings == {"block": {"scale": 2}}
    run.settings = {}
    assert original.whole_call(port, first, "float32").settings == {}
    assert original_of("no run").whole_call(port, encoder, "float32") == given.WholeCall()


def test_a_pipeline_runs_once_for_each_format_without_its_decoder(monkeypatch):
    made = []

    def run_of(pipe, networks, port, request):
        made.append((sorted(networks), request))
        return Recorded()

    monkeypatch.setattr(given, "OwnRun", run_of)
    monkeypatch.setattr(given.PipelineOriginal, "copies", lambda self, name, dtype: name)
    networks: Any = dict.fromkeys(("transformer", "text_encoder", "vae"))
    original = given.PipelineOriginal(networks, Pipeline())
    port = trace_of({f"{NET}//input.context": STATES}, **ASKED)
    for dtype in ("float32", "float32", "bfloat16"):
        assert not isinstance(original._run(port, dtype), str)
    assert made == [(["text_encoder", "transformer"], {"prompt": "a"})] * 2

    def fails(self, *args, **kwargs):
        raise RuntimeError("no such size\nmore")

    monkeypatch.setattr(Recorded, "record", fails)
    why = original._run(port, "float16")
    assert isinstance(why, str) and why.endswith("does not run: RuntimeError: no such size")
