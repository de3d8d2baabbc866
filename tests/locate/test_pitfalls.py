"""Pitfalls as data: the rows, the causes that they name, the page, the command and the tool."""

from __future__ import annotations

import importlib
import json
import re
import runpy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ldmref.apps.mcp.pitfalls import PitfallsRequest, answer_pitfalls
from ldmref.locate import faults
from ldmref.locate.faults.table import FAULTS
from ldmref.locate.findings import DIFFERS, EQUAL, Row
from ldmref.locate.pitfalls import find_pitfalls, list_causes, read_pitfalls
from ldmref.locate.reasonable import mark_reasonable
from ldmref.models.family import list_families

ROOT = Path(__file__).parents[2]
MASK = "a padding mask that should not be there, which hides the end token also"


@pytest.mark.parametrize("row", read_pitfalls(), ids=lambda row: row.symptom[:40])
def test_a_row_is_complete_and_its_causes_exist(row):
    assert all((row.subject, row.symptom, row.hypothesis, row.test))
    for thread in row.threads:
        assert re.fullmatch(r"[\w-]+/[\w.-]+#[1-9]\d*", thread), thread
    for cause in row.causes:
        module, _, function = cause.partition(".")
        found = importlib.import_module(f"{faults.__name__}.{module}")
        assert callable(getattr(found, function)), cause


def test_no_symptom_occurs_twice_and_subjects_are_together():
    rows = read_pitfalls()
    assert len({row.symptom for row in rows}) == len(rows) > 60
    subjects = [row.subject for row in rows]
    changes = sum(a != b for a, b in pairwise(subjects))
    assert changes == len(set(subjects)) - 1
    reasonable = [row for row in rows if row.reasonable]
    assert {row.subject for row in reasonable} == {"Reasonable, but not this model"}
    assert all(row.threads for row in reasonable) and len(reasonable) >= 5


def test_the_causes_are_those_of_the_table():
    causes = list(list_causes())
    assert len(causes) == len(FAULTS)
    assert all(cause.changes and cause.concerns and cause.source for cause in causes)
    named = {cause for row in read_pitfalls() for cause in row.causes}
    tried = {cause.name for cause in causes}
    others = {"whole.hidden_states", "norms.one_pass"}
    others |= {"attention.with_padding_mask", "attention.with_text_mask"}
    assert named - tried == others  # tried in other ways


@pytest.mark.parametrize(
    ("family", "layer", "cause", "thread"),
    [
        ("flux", "encoder.block.3.layer.0.SelfAttention", MASK, "black-forest-labs/flux#507"),
        ("flux", "text_model.encoder.layers.0.self_attn", MASK, ""),  # of CLIP
        ("sd3", "encoder.block.3.layer.0.SelfAttention", MASK, ""),
        ("", "encoder.block.3.layer.0.SelfAttention", MASK, ""),
        ("sd3", "", "the end of the levels is shifted once instead of twice", "diffusers#13243"),
        ("qwen-image-2.1", "", "a final norm is applied", "vllm-omni#7765"),
        ("z-image", "", "clip skip: 1 layer more, with the final norm", "vllm-omni#7765"),
        ("z-image", "", "clip skip: 1 layer more", ""),
        ("flux", "", "a final norm is applied", ""),
    ],
)
def test_a_reasonable_change_is_marked_in_its_families(family, layer, cause, thread):
    row = Row("call", layer, error=1.0, verdict=DIFFERS, cause=cause)
    marked = mark_reasonable(row, family).reasonable
    assert thread in marked and bool(marked) == bool(thread)
    assert not mark_reasonable(replace(row, verdict=EQUAL), family).reasonable


def test_every_family_of_a_row_exists():
    names = {family.name for family in list_families()}
    rows = [row for row in read_pitfalls() if row.families]
    assert len(rows) == 4 and all({*row.families} <= names and row.words for row in rows)


def test_words_select_rows_in_any_field():
    assert find_pitfalls() == list(read_pitfalls())
    assert all("LoRA" in row.symptom for row in find_pitfalls(["lora"]))
    assert find_pitfalls(["flux#507"])[0].reasonable
    assert find_pitfalls(["lora", "no such word"]) == []


def test_the_page_is_what_the_script_writes():
    page = runpy.run_path(str(ROOT / "scripts/make_pitfalls.py"))["make_page"]()
    stored = (ROOT / "docs/pitfalls.md").read_text("utf-8")
    assert stored == page, "run python scripts/make_pitfalls.py"
    assert all(row.hypothesis.replace("|", "\\|") in page for row in read_pitfalls())


def test_the_tool_lists_rows_and_causes():
    answer = answer_pitfalls(PitfallsRequest(("padding",), causes=True))
    assert answer["pitfalls"] and answer["causes"][0]["name"] == "norms.other_eps"
    assert json.loads(json.dumps(answer)) and "causes" not in answer_pitfalls(PitfallsRequest())
