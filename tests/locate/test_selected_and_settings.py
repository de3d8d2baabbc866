"""What is given in traces of selected calls, and the settings with which steps are tried."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of

from ldmref.locate.parts import step_faults as settings_module
from ldmref.locate.parts.scheduler_faults import config_faults
from ldmref.locate.parts.step_faults import StepSettings, step_faults
from ldmref.locate.pipeline.ledger import Ledger
from ldmref.locate.pipeline.selected import mark_selected
from ldmref.samplers import SAMPLERS, SchedulerConfig

ONE = {"output": np.zeros(1)}
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
SOURCES = [
    ("sampler", ("sample", "x"), ("initial", "schedule")),
    ("sampler", ("timestep", "sigma", "sigma_next"), ("schedule",)),
    ("sampler", ("model_output", "prediction", "prediction.1", "x0", "x0.1"), ("unet",)),
    ("sampler", ("x_at", "x_at.2", "sigma_at", "sigma_at.1"), ("unet",)),
    ("guidance", ("uncond", "scale", "anything"), ("unet",)),
    ("unet", ("sample", "input", "x", "timestep", "t", "guidance"), ("sampler",)),
    ("unet", ("encoder_hidden_states", "text_embeds"), ENCODERS),
    ("unet", ("pooled_projections", "context"), ENCODERS),
    ("vae.decode", ("z", "anything"), ("sampler",)),
    ("vae.encode", ("image", "anything"), ("inputs",)),
    ("scale_input", ("sample", "anything"), ("sampler",)),
    ("add_noise", ("noise", "anything"), ("vae.encode",)),
]


def marked(kind, roles, others=(), layer="", **manifest):
    """Return which inputs of a call are given, beside calls of other kinds."""
    call = f"{kind}.000"
    name = f"{call}/{layer}" if layer else call
    calls = {name: {f"input.{role}": np.zeros(1) for role in roles}}
    calls |= {f"{other}.000": ONE for other in others}
    port = context_of(calls, **manifest).port
    ledger = Ledger()
    mark_selected(port, ledger, "unet")
    entry = port.find(call, layer)
    return [ledger.has(entry, role) for role in roles]


@pytest.mark.parametrize(("kind", "roles", "sources"), SOURCES)
def test_inputs_are_given_if_none_of_their_sources_was_recorded(kind, roles, sources):
    for selection in ({"calls": ["a"]}, {"without": ["a"]}):
        assert marked(kind, roles, selection=selection) == [True] * len(roles)
        assert marked(kind, roles, ["tokens"], selection=selection) == [True] * len(roles)
    for source in sources:
        found = marked(kind, roles, [source], selection={"calls": ["a"]})
        assert found == [False] * len(roles), source
    for selection in ({}, {"layers": ["a"]}, {"calls": [], "without": []}, None):
        assert not any(marked(kind, roles, selection=selection))
    assert not any(marked(kind, roles, layer="a", selection={"calls": ["a"]}))


@pytest.mark.parametrize(
    ("kind", "roles"),
    [
        ("sampler", ("noise", "sample2", "asample", "timesteps", "sigmas", "model_output.1")),
        ("unet", ("noise", "contexts", "tt")),
        ("tokens", ("ids",)),
        ("initial", ("sample",)),
    ],
)
def test_other_inputs_are_not_given(kind, roles):
    assert not any(marked(kind, roles, selection={"calls": ["a"]}))


def test_every_call_is_looked_at():
    calls = {
        "sampler.000": {"input.x": np.zeros(1)},
        "unet.000": {"input.context": np.zeros(1)},
        "sampler.001": {"input.x": np.zeros(1)},
    }
    context = context_of(calls, selection={"calls": ["a"]})
    mark_selected(context.port, context.ledger, "unet")
    for call, role in (("sampler.000", "x"), ("unet.000", "context"), ("sampler.001", "x")):
        assert context.ledger.has(entry_of(context, call), role)
        assert not context.ledger.has(entry_of(context, call), role, "output")


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
    flags = {"stochastic": False, "adaptive": False, "guides": False}
    samplers = {
        name: SimpleNamespace(name=name, **flags | {flag: True})
        for name, flag in zip("abc", flags, strict=True)
    }
    samplers |= {"ddim": RIGHT.sampler, "d": SimpleNamespace(name="d", **flags)}
    monkeypatch.setattr(settings_module, "SAMPLERS", samplers)
    right = replace(RIGHT, eta=0.5)
    found = [x for _, x in step_faults(right) if x.sampler is not RIGHT.sampler]
    assert found == [replace(right, sampler=samplers["d"], eta=None)]
