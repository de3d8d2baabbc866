"""The benchmark of the start: what imports are made of."""

from __future__ import annotations

from benchmarks.start import list_programs, measure, sum_imports


def test_imports_are_summed_by_package(tmp_path):
    found = sum_imports(["-c", "import json, ldmref.errors"], 1)
    assert {"Python itself", "ldmref", "ldmref.errors"} <= {*found}
    assert all(microseconds >= 0 for microseconds in found.values())
    assert {*list_programs(tmp_path)} == {"numpy", "command", "load"}
    assert measure(["-c", "pass"]) > 0.0
