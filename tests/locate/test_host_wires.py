"""Right runs of every option of the pipelines are not alarmed, and no fault of a wire is silent."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

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
