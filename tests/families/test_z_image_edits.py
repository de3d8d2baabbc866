"""img2img and inpainting of Z-Image against diffusers' pipelines, from the same seeds."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import diffusers
import torch
from qwen3_networks import write_vocabulary
from z_image_pipelines import make_pipeline

PROMPTS = ["a red cat", "the blue house of a dog on a table, painted by an assistant of a cat"]
SIZES = [(24, 16), (16, 36)]  # (width, height)
SEEDS = [5, 6]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return make_pipeline(write_vocabulary(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def model(pipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("z-image")
    pipe.save_pretrained(path)
    return ldmref.load(path)


def make_picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def make_mask(width, height):
    """Return a mask of blocks, which are those of cells of the latents."""
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2, width // 4 :] = 255
    return Image.fromarray(mask)


def run_theirs(pipe, kind, prompts, scale, **options):
    found = kind(**pipe.components)
    found.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS[: len(prompts)]]
    shared = {"guidance_scale": scale, "num_inference_steps": 5, "output_type": "np"}
    return found([*prompts], generator=generators, **shared, **options).images


def assert_alike(images, theirs, bound=1):
    for image, want in zip(images, theirs, strict=True):
        assert np.abs(np.asarray(image).astype(int) - np.round(want * 255)).max() <= bound


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [0.0, 2.0])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_img2img_is_that_of_diffusers(pipe, model, size, scale, strength):
    """Of two images in one batch, for captions of unequal length."""
    pictures = [make_picture(*size, seed) for seed in SEEDS]
    want = run_theirs(
        pipe, diffusers.ZImageImg2ImgPipeline, PROMPTS, scale, image=pictures, strength=strength,
        width=size[0], height=size[1],
    )  # fmt: skip
    options = {"steps": 5, "strength": strength, "cfg_scale": 1.0 + scale, "rng": "torch"}
    for i, prompt in enumerate(PROMPTS):
        found = modes.img2img(model, prompt, pictures[i], seed=SEEDS[i], **options)
        assert_alike(found.images, want[i : i + 1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [0.0, 2.0])
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_inpainting_is_that_of_diffusers(pipe, model, size, scale, strength):
    """In the white part; black pixels stay as they are, where diffusers decodes them."""
    pictures = [make_picture(*size, seed) for seed in SEEDS]
    mask = make_mask(*size)
    want = run_theirs(
        pipe, diffusers.ZImageInpaintPipeline, PROMPTS, scale, image=pictures,
        mask_image=[mask] * 2, strength=strength, width=size[0], height=size[1],
    )  # fmt: skip
    white = np.asarray(mask) > 0
    options = {"steps": 5, "strength": strength, "cfg_scale": 1.0 + scale, "rng": "torch"}
    for i, prompt in enumerate(PROMPTS):
        found = modes.inpaint(model, prompt, pictures[i], mask, seed=SEEDS[i], **options)
        image = np.asarray(found.images[0]).astype(int)
        assert np.abs(image - np.round(want[i] * 255))[white].max() <= 1
        assert np.array_equal(image[~white], np.asarray(pictures[i])[~white])


@pytest.mark.parametrize("rng", ["torch", "default"])
def test_rows_of_a_batch_are_those_alone(model, rng):
    """Whatever the captions beside them; the images of a batch share a picture."""
    picture, mask = make_picture(24, 16), make_mask(24, 16)
    options = {"steps": 4, "strength": 0.7, "cfg_scale": 3.0}
    options |= {"rng": "torch"} if rng == "torch" else {}
    for mode, more in ((modes.img2img, ()), (modes.inpaint, (mask,))):
        together = mode(model, [*PROMPTS], picture, *more, seed=5, **options)
        for i, prompt in enumerate(PROMPTS):
            alone = mode(model, prompt, picture, *more, seed=5 + i, **options)
            assert_pixels(together.images[i], alone.images[0])


def assert_pixels(one, other):
    assert np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max() <= 1
