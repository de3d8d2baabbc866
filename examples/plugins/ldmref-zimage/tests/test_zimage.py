"""Z-Image: images of diffusers, and every tool of ldmref, by its name alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ldmref_zimage import transformer_spec

import ldmref
from ldmref import modes
from ldmref.models import flatten, preset

PROMPTS = ["a red cat", "the blue house of a dog on a table, painted by an assistant of a cat"]


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnx", "openvino"])
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_images_are_those_of_diffusers(pipe, folder, backend, scale):
    """From the same seeds, for captions of unequal length in one batch."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    options = {"guidance_scale": scale, "num_inference_steps": 4, "output_type": "np"}
    want = pipe([*PROMPTS], height=16, width=24, generator=generators, **options).images
    model = ldmref.load(folder, backend=backend)
    found = modes.txt2img(
        model, [*PROMPTS], seed=5, rng="torch", steps=4, cfg_scale=1.0 + scale, width=24, height=16
    )
    for image, their in zip(found.images, want, strict=True):
        difference = np.abs(np.asarray(image).astype(int) - np.round(their * 255))
        assert difference.max() <= 1


def test_published_sizes():
    """6,154,908,736 parameters in 521 tensors, beside 4,022,468,096 of Qwen3-4B."""
    spec = flatten(transformer_spec(preset("z-image").denoiser))
    assert sum(np.prod(shape) for shape in spec.values()) == 6_154_908_736
    assert len(spec) == 521
