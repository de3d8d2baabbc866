"""Right runs of every option of the pipelines are not alarmed, and no fault of a wire is silent."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from host_faults import FAULTS, PAIRS
from host_runs import RIGHT, judge

from ldmref.locate import DiffReport


def words_of(rows, verdict):
    return [(row.call, row.kind, row.cause, row.note) for row in rows if row.verdict == verdict]


@pytest.mark.parametrize("run", RIGHT, ids=lambda run: run.name.replace(" ", "-"))
def test_a_right_run_is_equal_or_says_what_was_not_compared(run, tmp_path):
    rows = judge(run, tmp_path / "t")
    report = DiffReport(tuple(rows))
    assert not report.faults, words_of(rows, "differs")[:4]
    unjudged = words_of(rows, "not judged")
    if not run.reason:
        assert report.equal, unjudged[:4]
    else:
        assert report.verdict == "incomplete"
        assert all(run.reason in note for *_, note in unjudged), unjudged[:4]


def blame(fault, rows):
    """Return whether a fault is named in one of the places where it may be."""
    found = [row for row in rows if row.verdict == "differs" and row.kind in fault.kinds]
    return bool(found) and any(fault.cause in f"{row.cause} {row.note}" for row in found)


def apply(*faults):
    def change(which):
        def run(pipe):
            for fault in faults:
                for function in getattr(fault, which):
                    function(pipe)

        return run

    return {which: change(which) for which in ("before", "within")}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_of_a_wire_is_named(fault, tmp_path):
    rows = judge(fault.run, tmp_path / "t", **apply(fault))
    assert blame(fault, rows), words_of(rows, "differs") + words_of(rows, "not judged")[:4]


@pytest.mark.parametrize("names", PAIRS, ids=lambda names: "-and-".join(names).replace(" ", "-"))
def test_two_faults_of_wires_are_both_named(names, tmp_path):
    known = {fault.name: fault for fault in FAULTS}
    first, second = (known[name] for name in names)
    rows = judge(first.run, tmp_path / "t", **apply(first, second))
    shown = words_of(rows, "differs")
    assert any(row.verdict == "differs" and row.kind in first.kinds for row in rows), shown
    assert any(row.verdict == "differs" and row.kind in second.kinds for row in rows), shown


def test_the_tables_cover_every_family():
    assert len(RIGHT) >= 60 and len(FAULTS) >= 30 and len(PAIRS) >= 10
    families = {fault.run.family for fault in FAULTS}
    assert {"sd1", "sdxl", "sd1-inpainting", "sd3", "dev", "fill", "control"} <= families
