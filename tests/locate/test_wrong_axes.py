"""Recorded arrays with another number of axes than the networks have, and with many axes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from cheap import stays_cheap

import ldmref
from ldmref.locate import diff_modules, diff_traces
from ldmref.locate.recorded.layouts import restore_order
from ldmref.locate.report import summary
from ldmref.trace import build_trace

FAMILIES = """
    tiny sd3-tiny flux-tiny z-image-tiny flux2-tiny flux3-tiny krea-2-tiny qwen-image-2.1-tiny
""".split()
MOST_AXES = 7


def report_of(model, network, role, axes):
    """Return the report of a call with one recorded input of so many axes."""
    call = network.name + (".000" if network.numbered else "")
    recorded = {f"{call}//input.{role}": np.full((2,) * axes, 0.5, np.float32)}
    recorded[f"{call}/other/output"] = np.arange(6, dtype=np.float32).reshape(2, 3)
    return diff_traces(build_trace(recorded), model)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_input_of_any_number_of_axes_has_a_row(family):
    model = ldmref.random_model(family)
    for network in model.family.networks(model.config):
        inputs = (*network.inputs, *network.optional) if network.params in model.params else ()
        for x, axes in itertools.product(inputs, range(MOST_AXES)):
            report = report_of(model, network, x.role, axes)
            assert not report.equal
            if axes == 0 and len(x.shape) > 1 and x.content not in ("ids", "mask"):
                words = f"cannot be replayed: its input {x.role!r} has the shape (), and "
                assert any(row.note.startswith(words) for row in report.rows), (x, report.rows)


@pytest.mark.parametrize("axes", [0, 1, 3, 5])
def test_latents_of_the_wrong_number_of_axes_are_named(axes):
    model = ldmref.random_model("tiny")
    network = next(n for n in model.family.networks(model.config) if n.name == "unet")
    report = report_of(model, network, "sample", axes)
    shape = (2,) * axes
    note = f"cannot be replayed: its input 'sample' has the shape {shape}, and 4 axes are needed"
    assert report.verdict == "differs" and report.faults[0].note == note


def test_latents_and_a_time_without_axes_are_named():
    arrays = {"unet.000//input.sample": np.float32(0), "unet.000//input.timestep": np.float32(0)}
    trace = build_trace({name: np.asarray(x) for name, x in arrays.items()})
    report = diff_traces(trace, ldmref.random_model("tiny"))
    assert not report.equal


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ((4, 1, 3, 2) + (1,) * 8, (2, 3, 4, 1) + (1,) * 8),
        ((1,) * 11 + (5,), (5,) + (1,) * 11),
        ((2,) * 12, (2,) * 12),
        ((1,) * 32, (1,) * 32),
        ((2, 3) * 6, (3, 2) * 6),
    ],
)
def test_orders_of_many_axes_take_no_time(given, shape):
    array = np.arange(np.prod(given), dtype=np.float64).reshape(given)
    with stays_cheap():
        found = [layout.array.shape for layout in restore_order(array, shape)]
    assert set(found) <= {shape}


def test_the_orders_of_few_axes_are_all_found():
    array = np.arange(16.0).reshape(2, 2, 2, 2)
    found = [layout.array for layout in restore_order(array, (2, 2, 2, 2))]
    assert len(found) == 23
    assert any(np.array_equal(x, array.transpose(3, 1, 0, 2)) for x in found)
    wide = np.arange(6.0).reshape(1, 2, 3, 1)
    layout = next(restore_order(wide, (3, 1, 1, 2)))
    assert layout.text == "equal after transpose 1,3,0,2"
    np.testing.assert_array_equal(layout.array[:, 0, 0], wide[0, :, :, 0].T)


def recorded_convolution(change, side=8):
    """Return a convolution, and the trace of its call with other outputs."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.SiLU())
    with torch.no_grad(), ldmref.recording(network, call="net") as run:
        network(torch.randn(1, 3, side, side))
    tensors = {name: np.asarray(run.trace.tensors[name]) for name in run.trace.tensors}
    return network, replace(run.trace, tensors=change(tensors))


def test_arrays_without_elements_were_not_compared():
    network, trace = recorded_convolution(lambda arrays: {k: x[:0] for k, x in arrays.items()})
    report = diff_modules(trace, network)
    assert report.verdict in ("incomplete", "nothing compared")
    assert {row.note for row in report.rows if row.layer == "0"} == {"it has no elements"}


def test_the_summary_says_that_height_and_width_are_exchanged():
    def turned(arrays):
        return {k: x.swapaxes(2, 3) if k == "net.000/0/output" else x for k, x in arrays.items()}

    network, trace = recorded_convolution(turned)
    report = diff_modules(trace, network)
    assert "2 in another order of axes, such as net.000/0: equal after transpose 0,1,3,2" in (
        summary(report)
    )
    same, trace = recorded_convolution(lambda arrays: arrays)
    assert "another order" not in summary(diff_modules(trace, same))
