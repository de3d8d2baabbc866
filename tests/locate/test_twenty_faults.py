"""The locator names every faulty layer or step of twenty ports, no other, and the cause."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from real_faults import CASES, new_scheduler
from recorded_pipelines import build, diff, names_of


def belongs(name, fault):
    return any(name == known or name.startswith(known + ".") for known in fault.names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_every_fault_is_named_with_its_cause_and_nothing_else(case, tmp_path):
    def prepare(pipe):
        if case.scheduler:
            new_scheduler(pipe, case.scheduler, case.fields)

    pipe, model = build(case.family, tmp_path / "model", prepare)
    for fault in case.faults:
        fault.make(pipe)
    found = names_of(diff(pipe, model, tmp_path / "trace", steps=3))
    others = [name for name in found if not any(belongs(name, f) for f in case.faults)]
    assert not others
    for fault in case.faults:
        for known in fault.names:
            assert any(n == known or n.startswith(known + ".") for n in found), (known, found)
        causes = {c for name in found if belongs(name, fault) for c in found[name]}
        assert any(fault.cause in cause for cause in causes), causes


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_right_pipeline_has_no_fault(family, tmp_path):
    pipe, model = build(family, tmp_path / "model")
    report = diff(pipe, model, tmp_path / "trace", steps=2)
    assert report.equal, names_of(report)
    assert report.counts()["equal"] > 500


def test_five_cases_have_three_faults():
    assert len(CASES) == 20
    assert sum(len(case.faults) == 3 for case in CASES) == 5
