"""An operation that a port leaves out is named alone, though later ones have other numbers."""

from __future__ import annotations

import re

import pytest
from numpy_ports import make_model, run_port

from ldmref.backends.named import AGAIN
from ldmref.locate import diff_traces
from ldmref.trace import build_trace

BLOCK = "mid_block.resnets.0"


@pytest.fixture(scope="module")
def model():
    return make_model("tiny")


def leave_out(model, base, number):
    """Return the arrays of a port without an operation, whose later ones are counted anew."""
    name = f"{base}{AGAIN}{number}" if number else base
    tensors = run_port(model, {name: lambda call, x: x["input"]})
    kept = {}
    for key, x in tensors.items():
        found = re.fullmatch(rf"(.*/{re.escape(base)})(?:~(\d+))?(/.*)", key)
        count = int(found[2] or 0) if found else 0
        if found and count == number:
            continue
        if found and count > number:
            key = f"{found[1]}{AGAIN}{count - 1}" if count > 1 else found[1]
            key += found[3]
        kept[key] = x
    assert len(kept) < len(tensors)
    return kept


@pytest.mark.parametrize(
    ("number", "victim"), [(0, "conv1"), (1, "time_emb_proj"), (2, "conv2")], ids=str
)
def test_only_the_layer_after_an_omitted_activation_is_named(model, number, victim):
    tensors = leave_out(model, f"{BLOCK}.silu", number)
    report = diff_traces(build_trace(tensors), model)
    (row,) = report.faults
    assert (row.layer, row.kind) == (f"{BLOCK}.{victim}", "wiring")
    assert "silu" in row.cause and "skipped" in row.cause
    assert not report.gaps


def test_a_wrong_input_of_an_activation_is_still_named(model):
    """Nothing was left out, so the numbers are as they are."""
    tensors = run_port(model)
    name = f"unet.000/{BLOCK}.silu~2/input"
    wrong = {**tensors, name: 0.5 * tensors[name]}
    rows = diff_traces(build_trace(wrong), model).faults
    assert (f"{BLOCK}.silu~2", "wiring") in {(row.layer, row.kind) for row in rows}
