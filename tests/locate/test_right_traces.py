"""Traces of every family agree with the model, also where a guidance perturbs calls."""

import pytest

import ldmref
from ldmref import modes
from ldmref.locate import diff_traces
from ldmref.trace import read_trace, record_trace


@pytest.mark.parametrize(
    ("name", "guidance"),
    [
        ("tiny", "pag"),
        ("sd3-tiny", {"name": "slg", "layers": [0]}),
        ("tiny", "nag"),
        ("sd3-tiny", "nag"),
        ("flux-tiny", "nag"),
        ("sd3-tiny", None),
        ("flux-tiny", None),
    ],
)
def test_a_right_run_raises_no_alarm(name, guidance, tmp_path):
    model = ldmref.random_model(name)
    plan = modes.plan("txt2img", model, prompt="a", steps=2, seed=1, guidance=guidance)
    record_trace(plan, model, tmp_path / "trace")
    result = diff_traces(read_trace(tmp_path / "trace"), model)
    assert not result.faults
