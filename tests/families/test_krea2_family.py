"""Krea 2: images of diffusers, and every tool of ldmref, by its name alone."""

from __future__ import annotations

import numpy as np
import pytest

import ldmref
from ldmref import modes

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from krea2_pipelines import make_pipeline

PROMPTS = ["a red cat", "the blue house of a dog on a table, painted by an assistant of a cat"]
SIZE = {"width": 24, "height": 16}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    """Return the folder that diffusers writes."""
    path = tmp_path_factory.mktemp("krea2")
    pipe.save_pretrained(path)
    return path


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnx", "openvino"])
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_images_are_those_of_diffusers(pipe, folder, backend, scale):
    """From the same seeds, for prompts of unequal length in one batch."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    options = {"guidance_scale": scale, "num_inference_steps": 4, "output_type": "np"}
    want = pipe([*PROMPTS], generator=generators, **options, **SIZE).images
    model = ldmref.load(folder, backend=backend)
    options = {"seed": 5, "rng": "torch", "steps": 4, "cfg_scale": 1.0 + scale}
    found = modes.txt2img(model, [*PROMPTS], **options, **SIZE)
    for image, their in zip(found.images, want, strict=True):
        difference = np.abs(np.asarray(image).astype(int) - np.round(their * 255))
        assert difference.max() <= 1
