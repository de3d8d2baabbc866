"""Right runs of every option of the pipelines are not alarmed, and no fault of a wire is silent."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from host_faults import FAULTS, PAIRS
from host_runs import RIGHT, HostRun, arguments_of, is_followed, judge, model_of, prepare

from ldmref.locate import DiffReport
from ldmref.locate.pipeline import judge_host
from ldmref.trace import Selection, read_trace, record_pipeline


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
    assert is_followed(run, tmp_path / "t") == (run.reason != "one level")


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


def test_a_pipeline_that_is_not_known_is_not_judged(tmp_path):
    run = HostRun("", "dev")
    judge(run, tmp_path / "t")
    trace = read_trace(tmp_path / "t")
    named = replace(trace, manifest=trace.manifest | {"pipeline": "FluxKontextPipeline"})
    (row,) = judge_host(named, model_of("dev", "", ()), "float32", [])
    assert row.verdict == "not judged" and "FluxKontextPipeline" in row.note


def test_the_halves_of_a_family_are_those_that_it_declares(tmp_path):
    """A family whose batches have the prompt first: exchanged texts are right for it alone."""
    run = HostRun("", "sd1", "", {"negative_prompt": "dog"})
    judge(run, tmp_path / "t")
    trace, model = read_trace(tmp_path / "t"), copy(model_of("sd1", "", ()))
    model.family = replace(model.family, name="z-image")  # whose halves have the other order
    rows = judge_host(trace, model, "float32", [])
    assert {row.cause for row in rows if row.kind == "text"} == {
        "prompt and negative prompt are exchanged"
    }


@pytest.mark.parametrize("second", ["a red cat", "a dog"])
def test_two_runs_in_one_recording_are_judged_one_by_one(tmp_path, second):
    pipe = prepare(HostRun("", "sd1"))
    with record_pipeline(pipe, tmp_path / "t", selection=Selection(layers=("",))):
        for prompt in ("a red cat", second):
            pipe(**arguments_of(pipe, HostRun("", "sd1", "", {"prompt": prompt})))
    rows = judge_host(read_trace(tmp_path / "t"), model_of("sd1", "", ()), "float32", [])
    assert {row.verdict for row in rows} == {"equal"}, words_of(rows, "not judged")[:4]


def test_the_tables_cover_every_family():
    assert len(RIGHT) >= 60 and len(FAULTS) >= 30 and len(PAIRS) >= 10
    families = {fault.run.family for fault in FAULTS}
    assert {"sd1", "sdxl", "sd1-inpainting", "sd3", "dev", "fill", "control"} <= families
