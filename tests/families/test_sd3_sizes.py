"""Stable Diffusion 3: sizes beyond the table of positions are refused; tokens of a missing T5."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import UsageError
from ldmref.families import sd3
from ldmref.models import preset

TINY = preset("sd3-tiny")
MOST = TINY.vae.factor * TINY.denoiser.patch_size * TINY.denoiser.pos_embed_max_size


def test_the_largest_size_is_known():
    assert preset("sd3-medium").max_side == 3072 and TINY.max_side == MOST
    assert preset("flux-dev").max_side is None and preset("sdxl").max_side is None


@pytest.mark.parametrize("side", ["width", "height"])
def test_a_size_without_positions_is_refused_by_the_plan(side):
    assert modes.plan("txt2img", TINY, prompt="a", **{side: MOST}).job.size
    over = {side: MOST + TINY.size_multiple}
    with pytest.raises(UsageError, match=f"{side} must be at most {MOST}, not") as caught:
        modes.plan("txt2img", TINY, prompt="a", **over)
    assert caught.value.code == "E-SIZE" and caught.value.hint == f"use {MOST} or less"


def test_the_second_pass_has_positions_too():
    with pytest.raises(UsageError, match=f"width must be at most {MOST}"):
        modes.plan("txt2img", TINY, prompt="a", upscale=1 + MOST / TINY.defaults.width)


def test_an_image_without_positions_is_resized():
    """Its area is one that the model takes; a side is too long."""
    long = Image.new("RGB", (2 * MOST, TINY.size_multiple))
    plan = modes.plan("img2img", TINY, prompt="a", image=long, seed=1)
    assert plan.job.size == (TINY.defaults.width, TINY.defaults.height)
    assert "resized (crop)" in " ".join(plan.warnings)
    model = ldmref.random_model("sd3-tiny", backend="numpy")
    assert plan.run(model)[0].size == plan.job.size


def test_zeros_stand_for_the_tokens_of_a_t5_that_is_missing():
    net = replace(TINY.denoiser, empty_tokens=7)
    without = replace(TINY, text_encoder_3=None, denoiser=net)
    found = {}
    for config in (TINY, without):
        networks = sd3.describe_networks(config)
        [attention] = [x.text_attention for x in networks if x.name == "transformer"]
        names = [x.name for x in networks if "text" in x.name]
        assert names == ["text_encoder", "text_encoder_2", "text_encoder_3"][: len(names)]
        found[len(names)] = attention.encoders, attention.padding
    assert found == {3: ((0, 2), 0), 2: ((0,), 7)}
    length = TINY.text_encoder.max_position_embeddings
    assert sd3.count_tokens(without, 16, 24) == (4 * 6, length + 7)
    assert sd3.count_tokens(TINY, 16, 24) == (4 * 6, length + 16)
    assert sd3.count_activations(without, 16, 24) == (24 + length + 7) * 16 * 10
