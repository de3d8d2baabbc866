"""Convolutions that pad on the right and bottom themselves, which ldmref does before them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_ports import make_model, run_port

from ldmref.locate import diff_traces
from ldmref.trace import build_trace

CALL = "vae.encode"
LAYER = "encoder.down_blocks.0.downsamplers.0"
MODELS: dict = {}


def judge(change=None, wrong=None):
    """Return what is said of an encoder whose convolutions are given what is not padded."""
    model = MODELS.setdefault("tiny", make_model("tiny"))
    arrays = run_port(model, wrong, CALL, hidden=("pad_bottom_right",))
    key = f"{CALL}/{LAYER}.conv/input"
    arrays[key] = arrays[key][..., :-1, :-1]
    if change is not None:
        arrays[key] = change(arrays[key])
    return diff_traces(build_trace(arrays), model)


@pytest.mark.parametrize("change", [None, lambda x: x.transpose(0, 2, 3, 1)])
def test_a_convolution_that_pads_itself_is_equal(change):
    report = judge(change)
    assert report.verdict == "equal", [(row.layer, row.cause) for row in report.faults]
    (row,) = [row for row in report.rows if "itself" in row.note]
    assert row.layer == f"{LAYER}.conv" and row.kind == "wiring"


def test_a_wrong_input_of_such_a_convolution_is_a_fault():
    (row,) = judge(lambda x: 1.02 * x).faults[:1]
    assert (row.layer, row.kind, row.cause) == (f"{LAYER}.conv", "wiring", "scaled by 1.02")


@pytest.mark.parametrize("widths", [((1, 0), (1, 0)), ((1, 1), (1, 1))])
def test_a_convolution_that_pads_elsewhere_is_a_fault(widths):
    """On the left and top, or on all sides: its output has the size of a right one."""

    def pad(call, inputs):
        x = np.pad(inputs["input"][..., :-1, :-1], ((0, 0), (0, 0), *widths))
        rows, columns = inputs["input"].shape[-2:]
        return call.compute({**inputs, "input": x[..., :rows, :columns]})

    layers = {row.layer for row in judge(wrong={f"{LAYER}.conv": pad}).faults}
    assert f"{LAYER}.conv" in layers
