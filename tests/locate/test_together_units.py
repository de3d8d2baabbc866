"""What the other texts of a call change: where Qwen-Image 2.1 puts the images of a batch."""

from __future__ import annotations

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.families.qwen_image_21.text import IMAGE_START
from ldmref.locate.pipeline import tokens
from ldmref.locate.pipeline.together import judge_together

MODEL = "qwen-image-2.1-tiny"
SHORT, LONG = "a red dog", "a red dog that is very large"
STATE = normal(0, 2, 4, 8, 8)


def lengths_of(*prompts):
    """Return how many tokens of each text the denoiser is given."""
    context = context_of({}, MODEL)
    mask, dropped = (
        getattr(tokens.tokenize(context, 0, prompts, {}), name) for name in ("mask", "dropped")
    )
    return [int(np.sum(row[:, dropped:])) for row in mask]


def judged(starts, prompts=(SHORT, LONG), mask=None, state=STATE, guided=False, **params):
    """Return the rows of calls with the images at these places, and what of each was compared."""
    calls, names = {}, []
    for i, start in enumerate(starts):
        names.append(f"transformer.{i:03}")
        arrays = {"input.sample": STATE}
        arrays |= {} if start is None else {f"input.{IMAGE_START}": np.asarray(start, float)}
        calls[names[-1]] = arrays | ({} if mask is None else {"input.encoder_attention_mask": mask})
    if guided:
        calls["guidance.000"] = {"input.uncond": STATE, "input.cond": STATE}
    calls["sampler.000"] = {} if state is None else {"input.x": state}
    given = {} if prompts is None else {"prompt": list(prompts)}
    context = context_of(calls, MODEL, params=given | params)
    rows = [*judge_together(context)]
    marked = [context.ledger.has(entry_of(context, name), IMAGE_START) for name in names]
    return [(row.call, row.verdict, row.cause) for row in rows], marked, rows


def test_all_images_of_a_batch_begin_behind_the_longest_text():
    short, long = lengths_of(SHORT, LONG)
    assert 0 < short < long
    rows, marked, (row,) = judged([[long, long]])
    assert rows == [("transformer.000", "equal", "")] and marked == [True]
    assert (row.kind, row.segment) == (IMAGE_START, "from the texts to the denoiser's image_start")
    assert judged([[long, long]], (LONG, SHORT))[0] == rows
    assert judged([[short, short]], (SHORT, SHORT))[0] == rows
    for wrong in ([long, long + 1], [short, short], [long + 1, long + 1]):
        ((call, verdict, _),) = judged([wrong])[0]
        assert (call, verdict) == ("transformer.000", "differs")


def test_images_behind_each_text_alone_are_named():
    short, long = lengths_of(SHORT, LONG)
    mask = (np.arange(long) < np.array([[short], [long]])).astype(int)
    alone = [("transformer.000", "differs", "each row is that of its text alone")]
    assert judged([[short, long]], mask=mask)[0] == alone
    assert judged([[short, long]])[0] == judged([[short, long]], mask=mask[:1])[0]
    assert judged([[short, long]])[0][0][2] != alone[0][2]


def test_each_half_begins_behind_its_own_texts():
    short, long = lengths_of(SHORT, LONG)
    negative = {"negative_prompt": [SHORT, SHORT], "guided": True}
    both = [(f"transformer.{i:03}", "equal", "") for i in (0, 1)]
    assert judged([[short] * 2, [long] * 2], **negative)[0] == both
    found, marked, _ = judged([[long] * 2, [short] * 2], **negative)
    assert [verdict for _, verdict, _ in found] == ["differs"] * 2 and marked == [True] * 2


@pytest.mark.parametrize(
    "more", [{"starts": [None]}, {"prompts": None}, {"state": None}, {"state": STATE[:0]}]
)
def test_places_without_texts_or_states_are_not_judged(more):
    if more.get("state") is not None:
        more = {"state": np.zeros((3, 4, 8, 8))}  # of which two are no multiple
    rows, marked, _ = judged(**{"starts": [[9, 9]], **more})
    assert rows == [] and marked == [False]


def test_families_whose_texts_do_not_change_each_other_have_no_row():
    context = context_of({"unet.000": {"input.sample": STATE}, "sampler.000": {"input.x": STATE}})
    assert [*judge_together(context)] == []
