"""Which calls and layers a selection takes."""

from __future__ import annotations

from ldmref.trace import Selection


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
