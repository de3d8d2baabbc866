"""Which calls and layers a selection takes."""

from __future__ import annotations

import ldmref
from ldmref import modes
from ldmref.trace import Selection, read_trace, record_trace


def test_steps_select_calls_of_steps_only():
    chosen = Selection(steps=(1, 3))
    assert [step for step in range(5) if chosen.takes_call("unet.cond", step)] == [1, 3]
    assert chosen.takes_call("text_encoder", None) and chosen.takes_call("vae.decode", None)
    assert Selection().takes_call("unet.cond", 7)


def test_patterns_and_steps_both_have_to_fit():
    chosen = Selection(calls=("unet.*",), steps=(0,))
    assert chosen.takes_call("unet.cond", 0) and not chosen.takes_call("unet.cond", 1)
    assert not chosen.takes_call("sampler.step", 0) and not chosen.takes_call("vae.decode", None)
    assert chosen.takes_call("unet.cond", None)


def test_a_whole_call_is_taken_whatever_the_layers():
    chosen = Selection(layers=("mid_block.*",))
    assert chosen.takes_layer("") and chosen.takes_layer("mid_block.attn")
    assert not chosen.takes_layer("mid_blocks") and Selection().takes_layer("anything")


def test_tensors_can_be_left_out(tmp_path):
    model = ldmref.random_model("tiny")
    plan = modes.plan("txt2img", model, prompt="a cat", seed=1, steps=2, sampler="heun")
    record_trace(plan, model, tmp_path / "t", selection=Selection.states())
    found = read_trace(tmp_path / "t")
    assert found.manifest["selection"]["calls"] and not found.tensors.keys() & {"unet.000//output"}
    kept = {*found.find("sampler.000").inputs}
    assert kept == {"x", "sigma", "sigma_next", "prediction", "x0.1"}


def test_a_pattern_leaves_out_tensors_of_any_layer():
    chosen = Selection(without=("*.attention/input.q",))
    assert chosen.takes_tensor("unet.000/conv_in/input")
    assert not chosen.takes_tensor("unet.000/mid.attention/input.q")
