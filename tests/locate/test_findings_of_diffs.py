"""Rows and reports of a diff, judges that stop, and changes that are right in themselves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ldmref.errors import LdmrefError
from ldmref.locate import pitfalls, reasonable
from ldmref.locate.findings import DiffReport, Row
from ldmref.locate.pitfalls import Pitfall
from ldmref.locate.recorded import unfit
from ldmref.locate.recorded.unfit import first_line, try_judge

EQUAL, NOISY, DIFFERS, UNKNOWN = "equal", "noisy", "differs", "not judged"


# -- rows and reports -----------------------------------------------------------------------------


def test_a_row_is_equal_and_says_nothing_by_default():
    assert Row("a", "b").to_dict() == {
        "call": "a",
        "layer": "b",
        "kind": "own",
        "error": 0.0,
        "allowed": 0.0,
        "floor": None,
        "bound": None,
        "inherited": None,
        "verdict": EQUAL,
        "cause": "",
        "explained": None,
        "note": "",
        "segment": "",
        "reasonable": "",
        "padding": 0,
    }


def test_numbers_that_are_not_finite_become_none():
    row = Row("a", "b", error=math.inf, allowed=math.nan, floor=-math.inf, bound=2.5, padding=3)
    found = row.to_dict()
    assert [found[name] for name in ("error", "allowed", "floor", "bound")] == [
        None,
        None,
        None,
        2.5,
    ]
    assert (found["padding"], found["verdict"]) == (3, EQUAL)


def test_a_row_is_named_after_its_call_and_layer():
    assert Row("unet.000", "conv_in").name == "unet.000/conv_in"
    assert Row("unet.000", "").name == "unet.000"


@pytest.mark.parametrize(
    ("error", "allowed", "verdict", "excess"),
    [
        (2.0, 0.5, DIFFERS, 4.0),
        (2.0, 0.0, DIFFERS, math.inf),
        (2.0, 0.5, UNKNOWN, 0.0),
        (math.inf, 0.0, UNKNOWN, 0.0),
        (0.0, 0.5, EQUAL, 0.0),
    ],
)
def test_the_excess_of_a_row(error, allowed, verdict, excess):
    assert Row("a", "", error=error, allowed=allowed, verdict=verdict).excess == excess


def report_of(*verdicts, inherited=None, **more):
    rows = [Row("a", str(i), verdict=x) for i, x in enumerate(verdicts)]
    if inherited is not None:
        rows[0] = replace(rows[0], inherited=inherited)
    return DiffReport(tuple(rows), **more)


@pytest.mark.parametrize(
    ("verdicts", "more", "verdict"),
    [
        ((), {}, "nothing compared"),
        ((UNKNOWN,), {}, "nothing compared"),
        ((UNKNOWN,), {"inherited": 0.0}, "incomplete"),
        ((UNKNOWN,), {"gaps": ("a",)}, "nothing compared"),
        ((EQUAL,), {}, EQUAL),
        ((NOISY,), {}, EQUAL),
        ((EQUAL, UNKNOWN), {}, "incomplete"),
        ((NOISY, UNKNOWN), {}, "incomplete"),
        ((NOISY,), {"gaps": ("a",)}, "incomplete"),
        ((EQUAL, DIFFERS, UNKNOWN), {"gaps": ("a",)}, DIFFERS),
        ((DIFFERS,), {}, DIFFERS),
    ],
)
def test_the_verdict_of_a_report(verdicts, more, verdict):
    report = report_of(*verdicts, **more)
    assert report.verdict == verdict
    assert report.equal == (verdict == EQUAL)


def test_a_report_counts_its_rows():
    verdicts = (EQUAL, DIFFERS, UNKNOWN, NOISY, EQUAL, DIFFERS, EQUAL, UNKNOWN, UNKNOWN, UNKNOWN)
    report = report_of(*verdicts)
    assert report.counts() == {EQUAL: 3, NOISY: 1, DIFFERS: 2, UNKNOWN: 4}
    assert [*report.counts()] == [EQUAL, NOISY, DIFFERS, UNKNOWN]
    assert [row.layer for row in report.faults] == ["1", "5"]
    padded = tuple(replace(row, padding=i) for i, row in enumerate(report.rows[:4]))
    assert replace(report, rows=padded).padding == 6


def test_a_report_as_a_dictionary():
    rows = (Row("a", "", verdict=DIFFERS, padding=2), Row("b", ""))
    report = DiffReport(rows, "folder", "float16", ("x",), 3.5, ("y",))
    assert report.to_dict() == {
        "port": "folder",
        "dtype": "float16",
        "verdict": DIFFERS,
        "equal": False,
        "counts": report.counts(),
        "padding": 2,
        "notes": ["x"],
        "gaps": ["y"],
        "rows": [row.to_dict() for row in rows],
    }
    assert replace(report, seconds=9.0) == report
    assert replace(report, dtype="float32") != report
    bare = DiffReport(())
    assert (bare.port, bare.dtype, bare.notes, bare.seconds, bare.gaps) == (
        "",
        "float32",
        (),
        0.0,
        (),
    )


# -- judges that stop -----------------------------------------------------------------------------


def test_the_first_line_of_a_message():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"


def stopped(error):
    def judge_things(context):
        yield Row(context, "")
        raise error

    return try_judge(judge_things, "given")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("why\nmore"),
        IndexError("why"),
        ZeroDivisionError("why"),
        OverflowError("why"),
        TypeError("why"),
    ],
)
def test_arrays_that_do_not_fit_end_in_a_row(error):
    first, second = stopped(error)
    assert first == Row("given", "")
    assert (second.call, second.layer, second.verdict) == ("things", "", UNKNOWN)
    assert second.note.endswith(": why")


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, AssertionError])
def test_other_errors_are_faults_of_ldmref(kind):
    with pytest.raises(kind):
        stopped(kind("why"))


def test_errors_for_the_user_are_raised(monkeypatch):
    monkeypatch.setattr(unfit, "UNFIT", (Exception,))
    with pytest.raises(LdmrefError):
        stopped(LdmrefError("why"))
    assert len(stopped(KeyError("why"))) == 2


def test_judges_that_end_have_their_rows_alone():
    assert try_judge(lambda context: [Row("a", ""), Row("b", "")], None) == [
        Row("a", ""),
        Row("b", ""),
    ]


# -- changes that are right in themselves ---------------------------------------------------------


def known(hypothesis="why", threads=("a/b#1", "c/d#2"), families=("sd3",), **more):
    return Pitfall("s", "s", hypothesis, "t", threads=threads, families=families, **more)


def marked(monkeypatch, *rows, family="sd3", layer="x.y", cause="the cause", verdict=DIFFERS):
    monkeypatch.setattr(reasonable, "read_pitfalls", lambda: rows)
    row = Row("a", layer, cause=cause, verdict=verdict)
    found = reasonable.mark_reasonable(row, family)
    assert replace(found, reasonable="") == row
    return found.reasonable


def test_reasons_are_those_of_the_family_the_cause_and_the_layer(monkeypatch):
    row = known(words="the c.*", layers=r"x\..*")
    assert marked(monkeypatch, row) == "why (a/b#1, c/d#2)"
    for change in (
        {"family": "flux"},
        {"cause": "a cause"},
        {"cause": "in the cause"},
        {"layer": "a.x.y"},
        {"verdict": EQUAL},
        {"cause": ""},
    ):
        assert marked(monkeypatch, row, **change) == ""
    anything = known(words=".*")
    assert marked(monkeypatch, anything, layer="") == "why (a/b#1, c/d#2)"
    assert marked(monkeypatch, anything, cause="") == ""


def test_the_first_reason_holds(monkeypatch):
    rows = [known(words="a"), known("one", words=".*"), known("two", words=".*")]
    assert marked(monkeypatch, *rows).startswith("one")


# -- pitfalls -------------------------------------------------------------------------------------

ROW = Pitfall("Subject", "Symptom", "Hypo", "Test", "37 %", ("owner/repo#12",), ("masks.none",))


def test_a_pitfall_is_found_by_any_of_its_fields(monkeypatch):
    other = Pitfall("x", "x", "x", "x")
    monkeypatch.setattr(pitfalls, "read_pitfalls", lambda: (other, ROW))
    words = ("Subject", "sYMPtom", "hypo", "TEST", "37", "owner/repo#12", "masks.none")
    for word in words:
        assert pitfalls.find_pitfalls([word]) == [ROW], word
    assert pitfalls.find_pitfalls(words) == [ROW]
    assert pitfalls.find_pitfalls([*words, "absent"]) == []
    assert pitfalls.find_pitfalls() == [other, ROW]
    assert pitfalls.find_pitfalls(["subjectsymptom"]) == []


def test_links_and_defaults_of_a_pitfall():
    assert ROW.links == ("https://github.com/owner/repo/issues/12",)
    bare = Pitfall("a", "b", "c", "d")
    assert (bare.number, bare.threads, bare.causes, bare.families) == ("", (), (), ())
    assert (bare.reasonable, bare.words, bare.layers) == (False, "", ".*")


def test_causes_are_listed_in_the_order_of_their_table():
    found = [*pitfalls.list_causes()]
    assert [(x.concerns, x.source) for x in found] == [
        (", ".join(fault.applies_to), fault.source) for fault in pitfalls.FAULTS
    ]
    assert {x.concerns for x in found} >= {"between layers", "a block"}
