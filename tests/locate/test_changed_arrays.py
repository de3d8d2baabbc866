"""Each array of a recorded run is changed alone; the rows that notice it and their causes stand."""

from __future__ import annotations

import changed_layers
import pytest
from changed_arrays import describe_changes, differences
from changed_runs import KINDS, RUNS

# the marks follow last bits, which differ between processors
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", RUNS)
def test_changes_of_a_run_are_noticed_and_named(name):
    """After an intended difference: python scripts/make_changed_arrays.py."""
    trace, model, nets = RUNS[name]()
    found = describe_changes(trace, model, nets, KINDS.get(name, ()))
    assert found[0] == "unchanged: equal"
    assert not differences(name, found)[:5]


@pytest.mark.parametrize("name", changed_layers.RUNS)
def test_changes_of_layers_are_noticed_and_named(name):
    found = changed_layers.describe(name)
    assert found[0] == "unchanged: equal"
    assert not differences(name, found)[:5]
