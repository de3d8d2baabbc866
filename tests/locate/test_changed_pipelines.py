"""Each array of a run of diffusers is changed alone; the rows that notice it and causes stand."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from changed_arrays import describe_changes, differences
from changed_pipelines import KINDS, RUNS, record


@pytest.mark.parametrize("name", RUNS)
def test_changes_of_a_pipelines_run_are_noticed_and_named(name):
    """After an intended difference: python scripts/make_changed_arrays.py."""
    found = describe_changes(*record(name), (), KINDS[name])
    assert found[0] == "unchanged: equal"
    assert not differences(name, found)[:5]


def test_every_run_is_known():
    assert set(KINDS) == set(RUNS)
