"""Reports: how rows are grouped and sorted, what the table shows, and what a summary counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy_ports import make_model, run_port

from ldmref.apps.cli.main import main
from ldmref.locate import DiffReport, Row, diff_traces, report
from ldmref.trace import build_trace


def wrong(call="unet.000", layer="a", excess=1.0, **more):
    return Row(call, layer, **{"error": excess, "allowed": 1.0, "verdict": "differs"} | more)


# -- groups ---------------------------------------------------------------------------------------


def names(rows, **options):
    return [group.name for group in report.group_rows(rows, **options)]


def test_calls_are_alike_up_to_their_numbers():
    calls = ["unet.000", "unet.001", "unet.001~1", "unet.002.03~4"]
    assert names([wrong(call) for call in calls]) == ["unet.000 to unet.002.03~4/a"]
    assert names([wrong("unet.000"), wrong("unet.000")]) == ["unet.000/a"]
    assert names([wrong("x.000.y"), wrong("x.001.y")]) == ["x.000.y/a", "x.001.y/a"]
    assert names([wrong("unet.000", ""), wrong("unet.001", "")]) == ["unet.000 to unet.001"]
    assert names([wrong("vae.000"), wrong("unet.000")]) == ["vae.000/a", "unet.000/a"]


@pytest.mark.parametrize(
    "more",
    [{"layer": "b"}, {"kind": "wiring"}, {"verdict": "noisy"}, {"cause": "c"}, {"segment": "s"}],
)
def test_rows_of_another_finding_are_apart(more):
    rows = [wrong(), wrong("unet.001", **{"layer": "a"} | more)]
    assert len(report.group_rows(rows)) == 2
    assert len(report.group_rows([rows[0], wrong("unet.001", note="n", error=9.0)])) == 1


def test_numbers_of_causes_are_not_compared():
    causes = ["scaled by 1.25", "scaled by 10.5", "scaled by 3"]
    groups = report.group_rows([wrong(f"unet.{i}", cause=x) for i, x in enumerate(causes)])
    assert [group.worst.cause for group in groups] == ["scaled by 1.25", "scaled by 3"]
    assert groups[0].calls == ("unet.0", "unet.1")


def test_groups_are_in_the_order_of_rows_or_of_their_excess():
    rows = [wrong(layer="a", excess=2.0), wrong(layer="b", excess=3.0)]
    rows.append(wrong("unet.001", layer="a", excess=5.0))
    rows.append(wrong(layer="c", excess=1.0))
    groups = report.group_rows(rows)
    assert [(group.worst.layer, group.worst.excess) for group in groups] == [
        ("a", 5.0),
        ("b", 3.0),
        ("c", 1.0),
    ]
    assert names(rows[1:], worst_first=True) == ["unet.001/a", "unet.000/b", "unet.000/c"]
    assert names(rows[1:], worst_first=False) == ["unet.000/b", "unet.001/a", "unet.000/c"]


# -- the table ------------------------------------------------------------------------------------


ROWS = (
    wrong(layer="a", excess=1.0),
    wrong(layer="b", excess=3.0),
    Row("unet.000", "e"),
    wrong(layer="n", excess=2.0, verdict="noisy"),
    wrong("unet.001", layer="a", excess=2.5),
)


def first_cells(*rows, **options):
    return [cells[0] for cells in report.table(DiffReport(rows), **options)[1:]]


def test_a_table_shows_what_is_not_equal():
    assert first_cells(*ROWS) == ["unet.000 to unet.001/a", "unet.000/b", "unet.000/n"]
    assert first_cells(*ROWS, worst_first=True) == [
        "unet.000/b",
        "unet.000 to unet.001/a",
        "unet.000/n",
    ]
    assert first_cells(*ROWS, everything=True) == [row.name for row in ROWS]
    assert first_cells(*ROWS, everything=True, worst_first=True) == [
        "unet.000/b",
        "unet.001/a",
        "unet.000/n",
        "unet.000/a",
        "unet.000/e",
    ]
    assert first_cells(Row("u", "a", verdict="not judged")) == ["u/a"]


def test_columns_of_a_table():
    numbers = {"error": 1.0, "allowed": 0.5, "bound": 0.25}
    row = wrong(**numbers, inherited=0.125)
    assert report.table(DiffReport((row, wrong(layer="b")))) == [
        ["layer or computation", "own error", "allowed", "bound", "inherited", "finding"],
        ["unet.000/a", "1", "0.5", "0.25", "0.12", "differs"],
        ["unet.000/b", "1", "1", "", "", "differs"],
    ]
    assert report.table(DiffReport((wrong(**numbers),))) == [
        ["layer or computation", "own error", "allowed", "bound", "finding"],
        ["unet.000/a", "1", "0.5", "0.25", "differs"],
    ]
    kinds = [report.table(DiffReport((wrong(kind=x),)))[1][0] for x in ("own", "step")]
    assert kinds == ["unet.000/a", "unet.000/a (step)"]


def test_what_follows_from_an_earlier_nan_stands_where_its_first_row_was():
    def after(call, layer):
        return Row(call, layer, verdict="not judged", note="NaN, as upstream")

    rows = [
        Row("unet.000", "z", verdict="not judged", note="x"),
        wrong(layer="b"),
        after("unet.000", "c"),
        wrong(layer="d"),
        after("unet.001", "e"),
        after("unet.000", "f"),
        Row("unet.000", "g", verdict="not judged", note="as upstream of it"),
    ]
    table = report.table(DiffReport(tuple(rows)))[1:]
    assert [cells[0] for cells in table] == [
        "unet.000/z",
        "unet.000/b",
        "unet.000 to unet.001/c",
        "unet.000/d",
        "unet.000/g",
    ]
    assert "3 layers" in table[2][-1]
    assert "--all" in table[2][-1]
    assert len(report.table(DiffReport(tuple(rows)), everything=True)) == 8
    two = report.table(DiffReport((rows[2], rows[4])))[1:]
    assert [cells[0] for cells in two] == ["unet.000 to unet.001/c"]
    judged = wrong(layer="c", note="NaN, as upstream")
    assert len(report.table(DiffReport((rows[2], judged)))) == 3
    assert len(report.table(DiffReport((rows[2], rows[2])))) == 2  # one layer, which has its note
    assert "layers after it" not in report.table(DiffReport((rows[2],)))[1][-1]


# -- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wiring", "prediction", "state", "initial latents"])
def test_what_leads_from_one_to_another_is_named(kind):
    row = wrong(kind=kind, cause="c", segment="s", note="n")
    assert report.describe(row) == "differs: c; n; s"
    other = wrong(kind="step", cause="c", segment="s", note="n")
    assert report.describe(other) == "differs: c; n"


def test_a_segment_is_named_where_it_differs_without_a_cause():
    assert report.describe(wrong(segment="s")) == "differs: s"
    assert report.describe(wrong(segment="s", verdict="noisy")) == "noisy"
    assert report.describe(wrong(segment="s", cause="c")) == "differs: c"
    assert report.describe(wrong()) == "differs"
    assert report.describe(wrong(kind="step", note="n")) == "differs: n"


def test_parts_of_a_finding():
    assert report.describe(wrong(cause="c", explained=0.0)) == "differs: c (leaves 0)"
    assert report.describe(wrong(explained=0.5)) == "differs"
    assert report.describe(wrong(cause="c", reasonable="r", note="n")).split(": ", 1)[1] == (
        "c; reasonable, but not this model: r; n"
    )


def test_numbers_have_two_digits():
    shown = [report.show_number(x) for x in (0.0, 0.126, -1234.0, math.nan, -math.inf, None)]
    assert shown == ["0", "0.13", "-1.2e+03", "infinite", "infinite", ""]


# -- the summary ----------------------------------------------------------------------------------


EQUAL, NOISY, UNKNOWN = (Row("u", x, verdict=x) for x in ("equal", "noisy", "not judged"))


def said(*rows, **more):
    return report.summary(DiffReport(rows, **more))


def test_one_layer_agrees_and_two_agree():
    assert said(EQUAL) == "1 layer or computation agrees within the rounding of float32"
    assert said(EQUAL, NOISY, dtype="float16") == (
        "2 layers and computations agree within the rounding of float16"
    )
    assert "; 1 layer or computation agrees" in said(EQUAL, UNKNOWN)
    assert said(wrong()) == "1 fault in 1 layer or computation, 0 explained"


def test_faults_are_counted_by_their_groups():
    rows = [wrong("u.0", cause="scaled by 1.5"), wrong("u.1", cause="scaled by 1.25"), wrong("v")]
    assert said(*rows, EQUAL).startswith("2 faults in 4 layers and computations, 1 explained")
    assert said(wrong(), gaps=("g",), dtype="x").endswith("0 explained")
    assert said(wrong(padding=2), UNKNOWN).endswith(
        "; 1 not judged; rows of padding not compared: 2"
    )


def test_gaps_are_named_where_nothing_differs():
    assert said(EQUAL, gaps=("first", "second")).endswith("float32; first")
    assert said(gaps=("first",)) == "nothing was compared; first"
    assert said(UNKNOWN) == "nothing was compared; 1 not judged"
    assert said(EQUAL).count(";") == 0


def test_differences_from_a_reference_alone():
    rows = [Row("u", f"l{i}", verdict="not judged", inherited=x) for i, x in enumerate((0.5, 2.0))]
    assert said(rows[0]).startswith("1 layer compared with the reference alone")
    assert "difference is 2, of u/l1" in said(*rows)
    assert "difference is 2, of u/l1" in said(*rows[::-1], UNKNOWN)


# -- reports of runs -------------------------------------------------------------------------------


def test_diff_has_the_flag_that_hints_name():
    """An internal error says "add -v", so every command must have it."""
    assert main(["diff", "--help"]) == 0
    assert main(["diff", "-v", "missing.safetensors", "--model", "emoji"]) == 3


def test_what_is_allowed_is_16_floors():
    """One rule for layers that are equal, noisy and wrong; the bound is a column of its own."""
    model = make_model("tiny")
    block = "down_blocks.0.resnets.0"
    noise = {f"{block}.conv1": lambda c, x: c.compute(x) * (1.0 + 4e-6 * np.sin(c.compute(x)))}
    wrong = {f"{block}.norm1": lambda c, x: c.compute({**x, "eps": 1e-3})}
    judged = diff_traces(build_trace(run_port(model, noise | wrong)), model)
    assert {"equal", "differs"} <= {row.verdict for row in judged.rows}
    for row in judged.rows:
        floor = 2.0**-24 if row.floor is None else row.floor
        assert row.allowed == pytest.approx(16.0 * floor) and floor >= 2.0**-24
        assert row.verdict != "equal" or row.error <= row.allowed
        most = row.allowed if row.bound is None else max(row.allowed, row.bound)
        assert row.verdict != "noisy" or row.allowed < row.error <= most
    assert "noisy" in {row.verdict for row in judged.rows}
