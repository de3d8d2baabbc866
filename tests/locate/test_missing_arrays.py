"""A right run of which one array was not recorded raises no alarm, and is not called complete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from changed_runs import RUNS

from ldmref.locate import Row
from ldmref.locate.pipeline import judge_host
from ldmref.trace import Trace


def without_each_array(trace: Trace) -> Iterator[tuple[str, Trace]]:
    """Yield the array's name, and the trace without it: the first array of each role of a kind."""
    seen = set()
    for entry in trace.entries:
        for side in ("inputs", "outputs"):
            for role in getattr(entry, side):
                if entry.layer or (entry.call.kind, side, role) in seen:
                    continue
                seen.add((entry.call.kind, side, role))
                rest = {k: v for k, v in getattr(entry, side).items() if k != role}
                changed = [replace(x, **{side: rest}) if x is entry else x for x in trace.entries]
                yield f"{entry.call} {side} {role}", replace(trace, entries=tuple(changed))


def judge(trace, model, nets) -> list[Row]:
    return judge_host(trace, model, "float32", [], controlnets=nets)


@pytest.mark.parametrize("name", RUNS)
def test_an_array_that_is_missing_is_no_fault(name):
    trace, model, nets = RUNS[name]()
    whole = judge(trace, model, nets)
    equal = sum(row.verdict == "equal" for row in whole)
    for missing, part in without_each_array(trace):
        rows = judge(part, model, nets)
        assert not [(row.call, row.kind) for row in rows if row.verdict == "differs"], missing
        assert sum(row.verdict == "equal" for row in rows) <= equal, missing
        assert all(row.note for row in rows if row.verdict == "not judged"), missing
