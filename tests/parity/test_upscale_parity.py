"""txt2img with a second pass against two pipelines of diffusers and PyTorch's `interpolate`."""

from __future__ import annotations

import math

import numpy as np
import pytest

import ldmref
from ldmref import modes

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

TAKEN = 4
STRENGTH = 0.5


@pytest.mark.parametrize("upscale", [2, 1.5])
@pytest.mark.parametrize("family", ["sd1", "sdxl"], indirect=True)
def test_two_pipelines_of_diffusers(theirs, folder, family, upscale):
    steps = int(TAKEN / STRENGTH)
    asked = {"prompt": "red cat", "guidance_scale": 4.0}
    width, height = 16, 32
    large = int(width * upscale), int(height * upscale)
    small = theirs(
        width=width,
        height=height,
        num_inference_steps=5,
        generator=torch.Generator("cpu").manual_seed(3),
        output_type="latent",
        **asked,
    ).images
    latents = torch.nn.functional.interpolate(
        small, size=(large[1] // 2, large[0] // 2), mode="bilinear", antialias=False
    )
    kind = {
        "sd1": diffusers.StableDiffusionImg2ImgPipeline,
        "sdxl": diffusers.StableDiffusionXLImg2ImgPipeline,
    }[family]
    pipe = kind(**theirs.components)
    pipe.set_progress_bar_config(disable=True)
    if family == "sdxl":  # diffusers' size for latents would be that of the first pass
        asked |= {"original_size": large[::-1], "target_size": large[::-1]}
    want = pipe(
        image=latents,
        strength=math.nextafter(TAKEN / steps, 1.0),
        num_inference_steps=steps,
        generator=torch.Generator("cpu").manual_seed(3),
        **asked,
    ).images[0]
    got = modes.txt2img(
        ldmref.load(folder),
        "red cat",
        width=width,
        height=height,
        seed=3,
        steps=5,
        cfg_scale=4.0,
        rng="torch",
        upscale=upscale,
        upscale_strength=STRENGTH,
        upscale_steps=TAKEN,
    )
    assert got[0].size == want.size == large
    assert np.asarray(want).std() > 10
    assert abs(np.asarray(got[0]).astype(int) - np.asarray(want).astype(int)).max() <= 2
