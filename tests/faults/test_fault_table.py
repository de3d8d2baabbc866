"""Every row of the fault table, through every interface: the code, and what is left behind."""

from __future__ import annotations

import pytest
from fault_all import CASES, EVERY_ROW
from fault_cases import COMMAND_LINE, HTTP
from fault_http import REFUSED
from fault_interfaces import INTERFACES, interfaces_of
from fault_rows import ROWS

RUNS = [
    pytest.param(case, name, id=f"{case.row}-{name}-{case.title}")
    for case in CASES
    for name in interfaces_of(case)
]


@pytest.mark.parametrize(("case", "interface"), RUNS)
def test_answer(case, interface, stage):
    outcome = INTERFACES[interface](case, stage)
    if case.error is None:
        assert outcome.code == "" and (outcome.images or case.argv)
        assert case.warns in (None, bool(outcome.warnings)), outcome.warnings
        return
    assert outcome.code, "accepted"
    usage = case.usage and interface == COMMAND_LINE
    assert outcome.code == ("E-USAGE" if usage else case.code)
    if interface == HTTP:
        assert outcome.status in REFUSED
        return
    error = case.error[interface] if isinstance(case.error, dict) else case.error
    assert outcome.exit_code == error.exit_code


def test_every_row_is_tested():
    assert {*EVERY_ROW} == {*ROWS}


def test_titles_are_unique():
    titles = [(case.row, case.title) for case in CASES]
    assert len({*titles}) == len(titles)
