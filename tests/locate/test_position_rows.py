"""Positions of an image and of a text are judged each by its own rule."""

from __future__ import annotations

import numpy as np
from host_units import context_of, entry_of

from ldmref.locate.pipeline import sizes


def rows_of(img_ids, txt_ids, calls=1):
    """Return the verdicts of positions, by what leads to them."""
    sample = np.zeros((1, 4, 4, 6))
    arrays = {"input.sample": sample, "input.img_ids": img_ids, "input.txt_ids": txt_ids}
    context = context_of({f"unet.{i:03}": arrays for i in range(calls)})
    rows = [*sizes.judge_positions(context)]
    for i in range(calls):
        entry = entry_of(context, f"unet.{i:03}")
        assert context.coverage.has(entry, "img_ids") and context.coverage.has(entry, "txt_ids")
    return [(row.segment.split()[-1], row.verdict, row.cause) for row in rows]


RIGHT = np.array([[0, r, c] for r in range(2) for c in range(3)], float)
WRONG = np.zeros((6, 3))


def test_positions_of_an_image_that_equal_those_of_the_text_are_judged():
    img, txt = "img_ids", "txt_ids"
    assert rows_of(RIGHT, WRONG) == [(img, "equal", ""), (txt, "equal", "")]
    rows = rows_of(WRONG, WRONG)
    assert rows == [(img, "differs", "all positions are zero"), (txt, "equal", "")]
    verdicts = [verdict for _, verdict, _ in rows_of(RIGHT, RIGHT)]
    assert verdicts == ["equal", "differs"]


def test_positions_are_judged_once_for_all_calls():
    assert len(rows_of(RIGHT, WRONG, calls=3)) == 2
    assert len(rows_of(WRONG, WRONG, calls=3)) == 2
