"""FLUX.3: images of diffusers, and every tool of ldmref, by its name alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.families.flux3 import transformer_spec
from ldmref.models import flatten, preset

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from flux3_pipelines import make_pipeline, run, save_pipeline
from qwen3_networks import write_vocabulary

LONG = "the blue house of a dog on a table, painted by an assistant of a cat, and a red cat" * 3
PROMPTS = ["a red cat", LONG, "a dog on a table"]
SIZE = {"width": 24, "height": 16}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return write_vocabulary(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def base(vocabulary, tmp_path_factory):
    """Return the pipeline of the base model, and the folder that diffusers writes."""
    pipe = make_pipeline(vocabulary)
    return pipe, save_pipeline(pipe, tmp_path_factory.mktemp("flux3-base"))


@pytest.fixture(scope="module")
def distilled(vocabulary, tmp_path_factory):
    """Return the pipeline of the distilled model, and its folder."""
    pipe = make_pipeline(vocabulary, flow_map=True)
    return pipe, save_pipeline(pipe, tmp_path_factory.mktemp("flux3"))


@pytest.fixture(scope="module")
def photos():
    """Return images that the rules for references change."""
    generator = np.random.default_rng(3)
    sizes = ((37, 21), (18, 50))
    return [
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


def load(folder, backend="numpy"):
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    return ldmref.load(folder, backend=backend)


def assert_same(image, theirs):
    """Within 1/255."""
    difference = np.abs(np.asarray(image).astype(int) - np.round(theirs * 255))
    assert difference.max() <= 1


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnx", "openvino"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_images_are_those_of_diffusers(base, backend, scale):
    """For prompts of unequal windows in one batch, of which diffusers takes one at a time."""
    pipe, folder = base
    model = load(folder, backend)
    options = {"rng": "torch", "steps": 4, "cfg_scale": scale}
    found = modes.txt2img(model, PROMPTS, seed=5, **options, **SIZE)
    for i, prompt in enumerate(PROMPTS):
        theirs = run(pipe, prompt, 5 + i, scale, num_inference_steps=4, **SIZE)
        assert_same(found.images[i], theirs)


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnx", "openvino"])
@pytest.mark.parametrize("steps", [4, 16])
def test_images_of_the_flow_map_are_those_of_diffusers(distilled, backend, steps):
    pipe, folder = distilled
    model = load(folder, backend)
    found = modes.txt2img(model, PROMPTS, seed=5, rng="torch", steps=steps, **SIZE)
    for i, prompt in enumerate(PROMPTS):
        theirs = run(pipe, prompt, 5 + i, num_inference_steps=steps, **SIZE)
        assert_same(found.images[i], theirs)


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnx", "openvino"])
@pytest.mark.parametrize("count", [1, 2])
def test_images_with_references_are_those_of_diffusers(base, distilled, photos, backend, count):
    for (pipe, folder), scale in ((base, 2.0), (distilled, 1.0)):
        model = load(folder, backend)
        options = {"rng": "torch", "steps": 2, "cfg_scale": scale, "references": photos[:count]}
        found = modes.txt2img(model, PROMPTS[:2], seed=5, **options, **SIZE)
        for i, prompt in enumerate(PROMPTS[:2]):
            images = {"image": photos[:count]}
            theirs = run(pipe, prompt, 5 + i, scale, num_inference_steps=2, **images, **SIZE)
            assert_same(found.images[i], theirs)


def test_states_are_those_of_diffusers(base):
    """The latents after the last step, which an image hides where it is clipped."""
    pipe, folder = base
    found = modes.txt2img(load(folder), LONG, seed=5, rng="torch", steps=4, cfg_scale=2.5, **SIZE)
    theirs = run(pipe, LONG, 5, 2.5, num_inference_steps=4, output="latents", **SIZE)
    theirs = np.asarray(theirs).reshape(found.latents[0].shape)
    assert np.abs(found.latents[0] - theirs).max() < 1e-3 * np.abs(theirs).max()


def test_published_sizes():
    for name, parameters, tensors in (
        ("flux3-klein-base", 5_538_458_368, 357),
        ("flux3-klein", 5_548_681_984, 359),
    ):
        spec = flatten(transformer_spec(preset(name).denoiser))
        assert sum(math.prod(shape) for shape in spec.values()) == parameters
        assert len(spec) == tensors
