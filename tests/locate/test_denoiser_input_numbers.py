"""Numbers that a denoiser is given: scales, positions, sizes, times, levels and latents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from host_units import Sized, context_of, entry_of, normal

from ldmref.locate.pipeline import sizes

SHAPE = (1, 4, 8, 8)
X, Y, Z = (normal(i, *SHAPE) for i in range(3))
UNET, TRANSFORMER, STEP = "unet.000", "transformer.000", "sampler.000"


def why_of(context, call, role):
    return context.coverage.reasons.get((entry_of(context, call).name, "input", role), "")


# -- positions ------------------------------------------------------------------------------------

WIDE = np.zeros((1, 4, 4, 6))  # of 2 x 3 tokens
PLACES = np.array([[0, i, j] for i in range(2) for j in range(3)], float)
DOWN = np.array([[0, j, i] for j in range(3) for i in range(2)], float)


def position_rows(*calls, sample=WIDE):
    arrays = {
        f"transformer.{i:03}": {f"input.{k}": x for k, x in {"sample": sample, **call}.items()}
        for i, call in enumerate(calls)
    }
    context = context_of(arrays, "flux-tiny")
    rows = [*sizes.judge_positions(context)]
    return rows, context


@pytest.mark.parametrize(
    ("got", "word"),
    [
        (PLACES, ""),
        (PLACES[:, [0, 2, 1]], "exchanged"),
        (DOWN, "exchanged"),
        (PLACES + np.array([0, 1, 1]), "from 1"),
        (2 * PLACES, "twice"),
        (0 * PLACES, "zero"),
    ],
)
def test_positions_are_those_of_the_tokens(got, word):
    (row,), context = position_rows({"img_ids": got})
    assert row.verdict == ("differs" if word else "equal")
    assert word in row.cause and (row.explained == 0.0 or not word)
    assert (row.call, row.kind) == (TRANSFORMER, "positions") and "img_ids" in row.segment
    assert context.coverage.has(entry_of(context, TRANSFORMER), "img_ids")


def test_positions_of_text_are_zero():
    for got, verdict in ((0.0 * PLACES, "equal"), (PLACES, "differs")):
        (row,), context = position_rows({"txt_ids": got})
        assert row.verdict == verdict and "txt_ids" in row.segment
        assert context.coverage.has(entry_of(context, TRANSFORMER), "txt_ids")
    (row,), _ = position_rows({"img_ids": np.zeros((5, 3))})  # not of these tokens
    assert row.verdict == "equal"
    (row,), _ = position_rows({"img_ids": np.ones((5, 3))})
    assert row.verdict == "differs"


def test_positions_are_judged_once_for_all_calls():
    both = {"img_ids": PLACES, "txt_ids": 0.0 * PLACES}
    rows, context = position_rows(both, both, {"txt_ids": PLACES, "img_ids": PLACES + 1.0})
    assert [(row.call[-1], row.verdict) for row in rows] == [
        ("0", "equal"),
        ("0", "equal"),
        ("2", "differs"),
        ("2", "differs"),
    ]
    assert len(context.coverage.judged) == 6


def test_calls_without_positions_do_not_hide_the_others():
    wrong = {"img_ids": PLACES[:, :2], "txt_ids": 0.0 * PLACES[:2]}
    rows, context = position_rows({}, wrong, {"img_ids": PLACES[None]}, {"img_ids": PLACES})
    assert [row.call[-1] for row in rows] == ["1", "3"]
    assert len(context.coverage.judged) == 2
    for sample in (WIDE[0], WIDE[None]):
        assert position_rows({"img_ids": PLACES}, sample=sample)[0] == []
    calls = {TRANSFORMER: {"input.img_ids": PLACES}}
    context = context_of(calls, "flux-tiny")
    assert [*sizes.judge_positions(context)] == []


# -- sizes ----------------------------------------------------------------------------------------


def sizes_row(got, **params):
    calls = {UNET: {"input.sample": np.zeros((1, 4, 8, 12)), "input.time_ids": np.array(got)}}
    context = replace(context_of(calls, params=params), model=Sized())
    (row,) = sizes.judge_sizes(context)
    assert row.kind == "micro-conditioning" and row.call == UNET
    return row


@pytest.mark.parametrize(
    ("params", "right"),
    [
        ({}, [16, 24, 0, 0, 16, 24]),
        ({"original_size": [5, 6]}, [5, 6, 0, 0, 16, 24]),
        ({"crops_coords_top_left": (3, 4)}, [16, 24, 3, 4, 16, 24]),
        ({"target_size": [7, 8]}, [16, 24, 0, 0, 7, 8]),
        ({"target_size": [7, 8, 9]}, [16, 24, 0, 0, 16, 24]),
        ({"target_size": 7}, [16, 24, 0, 0, 16, 24]),
    ],
)
def test_sizes_are_those_that_were_asked_for(params, right):
    for n in (1, 2):
        assert sizes_row([right] * n, **params).verdict == "equal"
    for i in range(6):
        other = list(right)
        other[i] += 1
        assert sizes_row([right, other], **params).verdict == "differs"


@pytest.mark.parametrize(
    ("params", "negative"),
    [
        ({"negative_original_size": [1, 2]}, [1, 2, 3, 4, 7, 8]),
        ({"negative_crops_coords_top_left": [1, 2]}, [5, 6, 1, 2, 7, 8]),
        ({"negative_target_size": [1, 2]}, [5, 6, 3, 4, 1, 2]),
    ],
)
def test_sizes_of_the_negative_half(params, negative):
    asked = {"original_size": [5, 6], "crops_coords_top_left": [3, 4], "target_size": [7, 8]}
    positive = [5, 6, 3, 4, 7, 8]
    for half in (1, 2):
        rows = [negative] * half + [positive] * half
        assert sizes_row(rows, **asked, **params).verdict == "equal"
        assert sizes_row(rows[::-1], **asked, **params).verdict == "differs"
    assert sizes_row([positive], **asked, **params).verdict == "equal"
    assert sizes_row([positive] * 2, **asked, **params).verdict == "differs"
    assert sizes_row([positive] * 2, **asked).verdict == "equal"


def test_sizes_that_are_wrong_have_a_cause():
    asked = {"original_size": [5, 6], "crops_coords_top_left": [3, 4], "target_size": [7, 9]}
    for got, word in (
        ([0, 0, 0, 0, 0, 0], "zero"),
        ([6, 5, 4, 3, 9, 7], "exchanged"),
        ([2.5, 3, 1.5, 2, 3.5, 4.5], "latents"),
        ([5, 6, 7, 9, 3, 4], "crop"),
    ):
        row = sizes_row([got], **asked)
        assert row.verdict == "differs" and word in row.cause and row.explained == 0.0


@pytest.mark.parametrize("name", ["original_width", "sizes"])
def test_sizes_of_other_programs_have_a_reason(name):
    calls = {UNET: {"input.sample": X, "input.time_ids": np.zeros((1, 6))}}
    context = replace(context_of(calls, params={name: 1}), model=Sized())
    assert [*sizes.judge_sizes(context)] == []
    assert why_of(context, UNET, "time_ids") and not context.coverage.judged


# -- whole runs -----------------------------------------------------------------------------------
