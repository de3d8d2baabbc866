"""The locator names every faulty layer or step of twenty ports, no other, and the cause."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from real_faults import CASES, new_scheduler
from recorded_pipelines import build, diff, names_of


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name.replace(" ", "-"))
def compared(request, tmp_path_factory):
    case = request.param
    folder = tmp_path_factory.mktemp("faulty")

    def prepare(pipe):
        if case.scheduler:
            new_scheduler(pipe, case.scheduler, case.fields)

    pipe, model = build(case.family, folder / "model", prepare)
    for fault in case.faults:
        fault.make(pipe)
    return case, diff(pipe, model, folder / "trace", steps=3)


def belongs(name, fault):
    return any(name == known or name.startswith(known + ".") for known in fault.names)


def test_every_fault_is_named(compared):
    case, report = compared
    found = names_of(report)
    for fault in case.faults:
        for known in fault.names:
            assert any(n == known or n.startswith(known + ".") for n in found), (known, found)


def test_nothing_else_is_named(compared):
    case, report = compared
    others = [n for n in names_of(report) if not any(belongs(n, f) for f in case.faults)]
    assert not others


def test_the_cause_is_found(compared):
    case, report = compared
    found = names_of(report)
    for fault in case.faults:
        causes = {c for name in found if belongs(name, fault) for c in found[name]}
        assert any(fault.cause in cause for cause in causes), causes


def test_five_cases_have_three_faults():
    assert len(CASES) == 20
    assert sum(len(case.faults) == 3 for case in CASES) == 5
