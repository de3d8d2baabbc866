"""The tables of steps, guidance and samplers on the card of `emoji`, from stored rows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import make_few_steps_page as page
from measure_few_steps import RESULTS, Setting, read_rows

OTHER = Setting("emoji-128", 8, 1.0, "unipc")
MAP = Setting("emoji-map", 2, 2.5, "ddim")


def row_of(setting, chunk, wrong=(), distance=0.0, between=0.04):
    """A row whose compositions are right except for some, in the order of the kinds."""
    right = [int(i not in wrong) for i in range(page.SCENES)]
    numbers = [distance] * (page.SCENES + 8)
    return {
        "setting": list(setting),
        "chunk": chunk,
        "right": right,
        "words": [1, 0] * 4,
        "to_default": numbers,
        "to_converged": numbers if chunk == 0 else None,
        "between_seeds": [between] * 4,
        "cpu_seconds": 0.25,
    }


@pytest.fixture
def groups():
    rows = [row_of(page.DEFAULT, chunk, wrong=(0, 1)) for chunk in range(2)]
    rows += [row_of(OTHER, chunk, (1, 2), 0.0625, 0.01) for chunk in (1, 0)]
    rows += [row_of(MAP, chunk) for chunk in range(2)]
    rows.append(row_of(Setting("emoji-128", 1, 2.5, "ddim"), 0))
    return page.group(rows, chunks=2)


def test_a_setting_without_all_chunks_is_left_out(groups):
    assert [*groups] == [OTHER, page.DEFAULT, MAP]
    assert [row["chunk"] for row in groups[OTHER]] == [0, 1]


def test_the_numbers_of_a_setting(groups, monkeypatch):
    """Squared distances of 1/16 are 1/4; a quarter of the squared distance of seeds is half."""
    assert page.cells_of(OTHER, groups)[7] == ""  # too few chunks have the converged run
    monkeypatch.setattr(page, "CONVERGED_CHUNKS", 1)
    name, count, right, only, words, *distances, variety, time = page.cells_of(OTHER, groups)
    assert (name, count, only) == ("8 steps, no guidance, UniPC", 8, "2, 2")
    assert right.startswith("90.0% (") and words.startswith("50.0% (")
    assert distances == ["0.250", "0.250", "0.250"]
    assert (variety, time) == ("50%", "250 ms")


def test_guidance_takes_two_evaluations_a_step_and_a_map_one(groups):
    assert {page.evaluations(setting) for setting in groups} == {40, 8, 2}


def test_the_tables_begin_with_the_default_and_divide_the_rest(groups):
    map_rows, setting_rows, kinds = (
        [line.split(" | ")[0].removeprefix("| ") for line in make(groups).splitlines()[2:]]
        for make in page.TABLES.values()
    )
    assert map_rows == ["20 steps, guidance 2.5", "map, 2 steps"]
    assert setting_rows == ["20 steps, guidance 2.5", "8 steps, no guidance, UniPC"]
    assert kinds == ["20 steps, guidance 2.5", "map, 2 steps", "8 steps, no guidance, UniPC"]


def test_the_shares_of_kinds_are_those_of_their_places(groups):
    """The first two compositions of a chunk are of the first kind, the next two of the second."""
    line = next(x for x in page.make_kinds_table(groups).splitlines() if "UniPC" in x)
    assert line.split(" | ")[1:4] == ["50", "50", "100"]


def test_the_card_shows_the_stored_rows():
    text = page.CARD.read_text("utf-8")
    assert page.fill(text, page.group(read_rows(RESULTS))) == text


def test_the_stored_rows_have_all_images_of_their_chunks():
    rows = read_rows(RESULTS)
    assert page.DEFAULT in page.group(rows)
    for row in rows:
        assert len(row["right"]) == page.SCENES
        assert len(row["words"]) == 2 * len(row["between_seeds"])
        assert len(row["to_default"]) == page.SCENES + len(row["words"])
        assert np.isfinite(row["to_default"]).all()
