"""What is given in traces of selected calls, and the settings with which steps are tried."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from ldmref.locate.parts import step_faults as settings_module
from ldmref.locate.parts.scheduler_faults import config_faults
from ldmref.locate.parts.step_faults import StepSettings, step_faults
from ldmref.samplers import SAMPLERS, SchedulerConfig

# -- settings of steps ----------------------------------------------------------------------------

CONFIG = SchedulerConfig()
RIGHT = StepSettings(CONFIG, SAMPLERS["ddim"], True)


def test_right_settings_change_nothing():
    assert RIGHT.sign == 1.0
    assert RIGHT.forgets is False
    assert RIGHT.eta is None
    assert RIGHT.prediction_type == ""
    assert RIGHT.rounding == "float64"


def test_each_fault_of_the_forward_process_is_tried():
    found = dict(step_faults(RIGHT))
    expected = dict(config_faults(CONFIG))
    assert expected
    for text, config in expected.items():
        assert found[text] == replace(RIGHT, config=config)


@pytest.mark.parametrize("lower", [True, False])
def test_the_other_order_of_the_last_steps_is_tried(lower):
    right = replace(RIGHT, config=replace(CONFIG, lower_order_final=lower))
    found = {text: x for text, x in step_faults(right) if text.startswith("lower_order_final")}
    (text,) = found
    assert text.endswith(str(not lower))
    assert found[text] == replace(right, config=replace(CONFIG, lower_order_final=not lower))


def test_samplers_that_guide_draw_or_adapt_are_not_tried(monkeypatch):
    flags = {"stochastic": False, "adaptive": False, "own_guidance": False}
    samplers = {
        name: SimpleNamespace(name=name, **flags | {flag: True})
        for name, flag in zip("abc", flags, strict=True)
    }
    samplers |= {"ddim": RIGHT.sampler, "d": SimpleNamespace(name="d", **flags)}
    monkeypatch.setattr(settings_module, "SAMPLERS", samplers)
    right = replace(RIGHT, eta=0.5)
    found = [x for _, x in step_faults(right) if x.sampler is not RIGHT.sampler]
    assert found == [replace(right, sampler=samplers["d"], eta=None)]
