"""The report: settings of the port's own, and layers that follow from a NaN."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy_ports import make_model, run_port

import ldmref
from ldmref.apps.cli.main import main
from ldmref.locate import DiffReport, Row, diff_traces
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.report import table
from ldmref.trace import build_trace

STEP = {"sampler.000//input.sample": 1.0, "sampler.000//output": 1.0}


def notes_of(**config):
    model = ldmref.random_model("tiny", seed=1)
    scheduler = {"class": "DDIMScheduler", "config": {"clip_sample": False, **config}}
    notes: list[str] = []
    port = build_trace(STEP, {"scheduler": scheduler})
    context = PipelineContext(port, model, "float32", notes)
    assert context.config.num_train_timesteps == model.config.scheduler.num_train_timesteps
    return notes


def test_the_ports_own_settings_are_named():
    """A port that clips x0 is judged by that, and the note says so."""
    (note,) = notes_of(clip_sample=True)
    assert "the port's own scheduler settings are used" in note
    assert "clip_sample_range 1.0 instead of 0.0" in note
    assert not any("clip_sample_range" in text for text in notes_of())


def report_with_nan(count):
    first = Row("unet.000", "conv_in", verdict="differs", note="NaN at [0], 1 of 2 values")
    unknown = replace(first, verdict="not judged", note="NaN at [0], 2 of 2 values, as upstream")
    after = [replace(unknown, layer=f"layer{i}") for i in range(count)]
    last = replace(unknown, layer="last", note="an input was not recorded")
    return DiffReport((first, *after, last))


def test_what_follows_from_a_nan_is_one_line():
    shown = table(report_with_nan(69))
    assert len(shown) == 4  # headings, the NaN, its consequences, the last one
    assert "69 layers after it not finite, as upstream; --all lists them" in shown[2][-1]
    assert "an input was not recorded" in shown[3][-1]
    assert len(table(report_with_nan(69), everything=True)) == 72


@pytest.mark.parametrize("count", range(5))
def test_several_layers_after_a_nan_are_one_line_and_one_is_itself(count):
    shown = table(report_with_nan(count))
    assert len(shown) == 3 + min(count, 1)
    assert [cells[0] for cells in shown[1:]][-1].endswith("last")
    named = [cells for cells in shown if "layer0" in cells[0] and "--all" not in cells[-1]]
    assert len(named) == (count == 1)


def test_diff_has_the_flag_that_hints_name():
    """An internal error says "add -v", so every command must have it."""
    assert main(["diff", "--help"]) == 0
    assert main(["diff", "-v", "missing.safetensors", "--model", "emoji"]) == 3


def test_what_is_allowed_is_16_floors():
    """One rule for layers that are equal, noisy and wrong; the bound is a column of its own."""
    model = make_model("tiny")
    block = "down_blocks.0.resnets.0"
    noise = {f"{block}.conv1": lambda c, x: c.compute(x) * (1.0 + 4e-6 * np.sin(c.compute(x)))}
    wrong = {f"{block}.norm1": lambda c, x: c.compute({**x, "eps": 1e-3})}
    report = diff_traces(build_trace(run_port(model, noise | wrong)), model)
    assert {"equal", "differs"} <= {row.verdict for row in report.rows}
    for row in report.rows:
        floor = 2.0**-24 if row.floor is None else row.floor
        assert row.allowed == pytest.approx(16.0 * floor) and floor >= 2.0**-24
        assert row.verdict != "equal" or row.error <= row.allowed
        most = row.allowed if row.bound is None else max(row.allowed, row.bound)
        assert row.verdict != "noisy" or row.allowed < row.error <= most
    assert "noisy" in {row.verdict for row in report.rows}
