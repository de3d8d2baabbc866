"""Each array of a recorded run is changed alone; the rows that notice it and their causes stand."""

from __future__ import annotations

import pytest
from changed_arrays import describe_changes, stored_lines
from changed_runs import KINDS, RUNS


@pytest.mark.parametrize("name", RUNS)
def test_changes_of_a_run_are_noticed_and_named(name):
    """After an intended difference: python scripts/make_changed_arrays.py."""
    trace, model, nets = RUNS[name]()
    found = describe_changes(trace, model, nets, KINDS.get(name, ()))
    stored = stored_lines(name)
    different = [(a, b) for a, b in zip(found, stored, strict=False) if a != b]
    assert not different[:5] and len(found) == len(stored)
    assert found[0] == "unchanged: equal"
