"""Each array of a recorded run is changed alone; the rows that notice it and their causes stand."""

from __future__ import annotations

import changed_layers
import numpy as np
import pytest
from changed_arrays import (
    change_array,
    describe_changes,
    differences,
    is_alike,
    is_same,
    stored_lines,
)
from changed_layers import CLEAR, PROCESSORS, judge_changes, lines_of, rows_of
from changed_runs import KINDS, RUNS

from ldmref.locate import DiffReport
from ldmref.locate.pipeline import judge_host


@pytest.mark.parametrize("name", RUNS)
def test_changes_of_a_run_are_noticed_and_named(name):
    """After an intended difference: python scripts/make_changed_arrays.py."""
    trace, model, nets = RUNS[name]()
    found = describe_changes(trace, model, nets, KINDS.get(name, ()), few=True)
    assert found[0] == "unchanged: equal"
    assert not differences(name, found)[:5]


NETWORKS = ("controlnet", "text_encoder", "transformer", "unet", "vae")  # judged by their layers


@pytest.mark.parametrize("value", [np.inf, np.nan, 3e38])
@pytest.mark.parametrize("name", RUNS)
def test_one_number_that_is_not_finite_is_noticed(name, value):
    """In the first array of each kind: infinite, no number, or too large for its square."""

    def change(x):
        changed = np.array(x)
        changed.flat[x.size // 2 : x.size // 2 + 1] = value
        return changed

    trace, model, nets = RUNS[name]()
    seen = set()
    for entry in trace.entries:
        for side in ("inputs", "outputs"):
            for role in getattr(entry, side):
                kind = (entry.call.kind, side, role)
                given = side == "outputs" or role in ("image", "hint")
                of_network = given and entry.call.startswith(NETWORKS)
                x = np.asarray(trace.tensors[getattr(entry, side)[role]])
                if entry.layer or of_network or kind in seen or x.dtype.kind != "f" or not x.size:
                    continue
                seen.add(kind)
                run = change_array(trace, entry, side, role, "one number", change)
                with np.errstate(all="ignore"):
                    rows = judge_host(run, model, "float32", [], nets)
                assert not DiffReport(tuple(rows)).equal, kind
    assert len(seen) > 5


@pytest.mark.parametrize("name", changed_layers.RUNS)
def test_changes_of_layers_are_noticed_and_named(name):
    """All that is clear is stored, and all that is stored is seen, whatever the kernels round."""
    changes = judge_changes(name)
    assert changes[0] == ("unchanged", {})
    stored = stored_lines(name)
    certain = lines_of(changes, CLEAR * PROCESSORS)
    seen = lines_of(changes, CLEAR / PROCESSORS)
    for line, fewer, more in zip(stored, certain, seen, strict=True):
        title, rows = rows_of(line)
        assert rows_of(fewer)[0] == title
        assert rows_of(fewer)[1] <= rows <= rows_of(more)[1], title


def test_rounding_is_no_change():
    """Equal rows are computed with other last bits by some kernels."""
    x = np.float32([[1.0, 2.0], [1.0, 2.000001]])
    assert is_alike(x[::-1], x)
    assert not is_alike(x[:, ::-1], x)
    assert not is_alike(x * np.nan, x)
    assert not is_alike(x[:1], x)
    assert not is_alike(np.int64([1, 2]), np.int64([2, 1]))


def test_what_rows_allow_is_compared():
    assert is_same("guidance ~1.04e-05", "guidance ~1e-05")
    assert not is_same("guidance ~1.06e-05", "guidance ~1e-05")
    assert not is_same("guidance ~1e-05", "step ~1e-05")
    assert not is_same("guidance", "guidance ~1e-05")
    assert not is_same(None, "guidance ~1e-05")
    assert is_same("a: equal", "a: equal")
