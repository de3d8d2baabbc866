"""The further channels of superres and seg2img: a run agrees with itself, and faults are named."""

from __future__ import annotations

import numpy as np
import pytest
from unfollowed import of_another_program

from ldmref import modes
from ldmref.backends import get_backend
from ldmref.cases.shrink import shrink
from ldmref.locate import diff_traces
from ldmref.models import preset
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.modes import batch_network
from ldmref.trace import read_trace, record_trace

RNG = np.random.default_rng(0)
RUNS = {
    "ldm-superres": ("superres", {"image": RNG.integers(0, 256, (8, 16, 3)).astype(np.uint8)}),
    "ldm-semantic": ("seg2img", {"segmentation": RNG.integers(0, 5, (32, 64))}),
}
NAMES = {"ldm-superres": "image to enlarge", "ldm-semantic": "segmentation"}


@pytest.fixture(params=RUNS)
def run(request, tmp_path):
    """Return the name of a preset, its small model, and a function that records a run of it."""
    config = shrink(preset(request.param))
    model = LatentDiffusion(get_backend("numpy"), config, init(model_spec(config), 0), None)
    mode, parameters = RUNS[request.param]

    def record():
        plan = modes.plan(mode, model, seed=1, steps=2, **parameters)
        record_trace(plan, model, tmp_path / "trace", overwrite=True)
        return read_trace(tmp_path / "trace")

    return request.param, model, record


def test_a_run_agrees_with_itself(run):
    name, model, record = run
    assert diff_traces(record(), model).equal
    report = diff_traces(of_another_program(record()), model)
    assert not report.faults, [row.note for row in report.rows if row.note]
    kinds = [row.kind for row in report.rows if row.call == "unet.001"]
    assert f"channels of the {NAMES[name]}" in kinds


def test_other_channels_than_the_given_ones_are_named(run, monkeypatch):
    """Both are joined to the latents with the other sign."""
    name, model, record = run
    repeat = batch_network.repeat
    monkeypatch.setattr(
        batch_network, "repeat", lambda ops, x, n: repeat(ops, -x if x.ndim == 4 else x, n)
    )
    trace = of_another_program(record())
    monkeypatch.undo()  # the judge is the run, which would have the fault as well
    report = diff_traces(trace, model)
    kind = f"channels of the {NAMES[name]}"
    found = [row for row in report.faults if row.kind == kind]
    assert [row.call for row in found] == ["unet.000", "unet.001"]
    assert {row.cause for row in found} == {f"the {NAMES[name]} is inverted"}
