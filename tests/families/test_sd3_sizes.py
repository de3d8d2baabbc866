"""Sizes beyond the table of positions of Stable Diffusion 3 are refused before anything runs."""

from __future__ import annotations

import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import UsageError
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
