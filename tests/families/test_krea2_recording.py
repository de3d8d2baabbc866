"""Live pipelines of diffusers: right ones are found right, and public faults are named."""

from __future__ import annotations

import pytest

import ldmref
from ldmref.locate import diff_traces

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from krea2_faults import FAULTS, RIGHT, record, rewrite_call
from krea2_pipelines import make_pipeline


@pytest.fixture(scope="module", params=[False, True], ids=["raw", "turbo"])
def pipe(request, tmp_path_factory):
    return make_pipeline(tmp_path_factory.mktemp("tokenizer"), request.param)


@pytest.fixture(scope="module")
def model(pipe, tmp_path_factory):
    """Return the model of the folder that diffusers writes."""
    path = tmp_path_factory.mktemp("krea2")
    pipe.save_pretrained(path)
    return ldmref.load(path, dtype="float32")


@pytest.mark.parametrize("pipe", [False], indirect=True, ids=["raw"])
@pytest.mark.parametrize("run", [*RIGHT])
def test_a_right_run_has_no_fault(pipe, model, tmp_path, run):
    report = diff_traces(record(pipe, tmp_path / "trace", **RIGHT[run]), model)
    counts = report.counts()
    assert counts["differs"] == counts["not judged"] == 0 and counts["equal"] > 250
    assert {"transformer.000", "text_encoder", "vae.decode"} <= {row.call for row in report.rows}


@pytest.mark.parametrize("pipe", [True], indirect=True, ids=["turbo"])
def test_a_right_run_of_turbo_has_no_fault(pipe, model, tmp_path):
    """Whose shift of the times is the same at every size."""
    trace = record(pipe, tmp_path / "trace", guidance_scale=0.0)
    counts = diff_traces(trace, model).counts()
    assert counts["differs"] == counts["not judged"] == 0 and counts["equal"] > 250
    assert model.config.scheduler.shift_rule == "constant"
    assert model.config.defaults.cfg_scale == 1.0


@pytest.mark.parametrize("pipe", [True], indirect=True, ids=["turbo"])
def test_the_schedule_of_raw_is_named(pipe, model, tmp_path):
    """A port that computes mu from the size of the image, for the distilled model."""
    with pytest.MonkeyPatch.context() as patch:
        rewrite_call(patch, "if self.config.is_distilled", "if False")
        trace = record(pipe, tmp_path / "trace", guidance_scale=0.0)
    [row] = [row for row in diff_traces(trace, model).rows if row.kind == "sigmas"]
    assert row.cause == "shift 1.6087 instead of 3.1582"


@pytest.mark.parametrize("pipe", [False], indirect=True, ids=["raw"])
@pytest.mark.parametrize("name", [*FAULTS])
def test_a_public_fault_is_named(pipe, model, tmp_path, name):
    fault = FAULTS[name]
    with fault.made(pipe):
        trace = record(pipe, tmp_path / "trace", **fault.options)
    rows = [row for row in diff_traces(trace, model).rows if row.verdict == "differs"]
    named = {(row.call, row.layer, row.kind): row.cause for row in rows}
    assert fault.cause in named[fault.found]
    calls = {call.partition(".")[0].partition("~")[0] for call, _, _ in named}
    assert calls == {fault.found[0].partition(".")[0]}  # nothing else is blamed
