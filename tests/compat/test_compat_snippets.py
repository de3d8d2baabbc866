"""Typical scripts for diffusers, run with its own classes and with those of ldmref."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ldmref.errors import ImageError, UsageError

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")


def libraries():
    """Yield the names that the scripts import, of diffusers and of ldmref."""
    import diffusers
    from diffusers import utils

    yield SimpleNamespace(name="diffusers", pipelines=diffusers, utils=utils)
    import ldmref.compat.diffusers as compat
    from ldmref.compat.diffusers import utils as ours

    yield SimpleNamespace(name="ldmref", pipelines=compat, utils=ours)


def both(script):
    """Make a test of a script, which yields images: those of both libraries are the same."""
    parameters = list(inspect.signature(script).parameters.values())[1:]

    def test(**given):
        want, got = ([np.asarray(i).astype(int) for i in script(l, **given)] for l in libraries())
        assert len(want) == len(got)
        for a, b in zip(want, got, strict=True):
            assert a.shape == b.shape and a.std() > 5
            assert abs(a - b).max() <= 2

    test.__signature__ = inspect.Signature(parameters)
    test.__name__ = script.__name__
    test.pytestmark = getattr(script, "pytestmark", [])
    return test


@pytest.fixture
def sd1(open_folder):
    return str(open_folder("sd1")[1])


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@both
def test_a_first_script(lib, sd1):
    pipeline = lib.pipelines.DiffusionPipeline.from_pretrained(
        sd1, torch_dtype=torch.float32, use_safetensors=True, safety_checker=None
    )
    quiet(pipeline).to("cpu")
    pipeline.scheduler = lib.pipelines.DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config
    )
    pipeline.enable_attention_slicing()
    generator = torch.Generator("cpu").manual_seed(0)
    image = pipeline("red cat", generator=generator, num_inference_steps=20).images[0]
    yield image


@both
def test_four_seeds_on_a_sheet(lib, sd1):
    pipeline = quiet(lib.pipelines.StableDiffusionPipeline.from_pretrained(sd1))
    generator = [torch.Generator("cpu").manual_seed(i) for i in range(4)]
    prompts = ["red", "cat", "red cat", "cab"]
    images = pipeline(prompts, generator=generator, num_inference_steps=4).images
    yield lib.utils.make_image_grid(images, 2, 2)
    yield lib.utils.make_image_grid(images, rows=1, cols=4, resize=8)


@both
def test_latents_go_from_one_pipeline_to_the_next(lib, sd1):
    text = quiet(lib.pipelines.AutoPipelineForText2Image.from_pretrained(sd1))
    image = quiet(lib.pipelines.AutoPipelineForImage2Image.from_pipe(text))
    seed = torch.Generator("cpu").manual_seed(1)
    first = text("red cat", generator=seed, num_inference_steps=4, output_type="latent").images
    changed = image("cab", image=first, generator=seed, strength=0.5, num_inference_steps=8)
    yield changed.images[0]


@both
def test_a_mask_is_blurred_and_what_is_kept_is_pasted_back(lib, sd1, photo, mask):
    pipeline = quiet(lib.pipelines.AutoPipelineForInpainting.from_pretrained(sd1))
    blurred = pipeline.mask_processor.blur(mask, blur_factor=3)
    seed = torch.Generator("cpu").manual_seed(1)
    size = dict(height=16, width=32, num_inference_steps=4)
    repainted = pipeline(
        prompt="red cat", image=photo, mask_image=blurred, generator=seed, **size
    ).images[0]
    yield repainted
    kept = pipeline.image_processor.apply_overlay(mask, photo, repainted)
    yield kept
    black = np.asarray(mask) == 0
    assert (np.asarray(kept)[black] == np.asarray(photo)[black]).all()


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@both
def test_prompts_are_encoded_once_and_mixed(lib, open_folder, family):
    pipeline = quiet(
        lib.pipelines.AutoPipelineForText2Image.from_pretrained(open_folder(family)[1])
    )
    more = {} if family == "sd1" else {"prompt_2": None}
    named = dict(device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    red = pipeline.encode_prompt("red", **more, **named)
    cat = pipeline.encode_prompt("cat", **more, negative_prompt="blue", **named)
    mixed = [0.5 * a + 0.5 * b for a, b in zip(red, cat, strict=True)]
    names = ["prompt_embeds", "negative_prompt_embeds"]
    names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"] if family == "sdxl" else []
    embeds = dict(zip(names, mixed, strict=True))
    seed = torch.Generator("cpu").manual_seed(1)
    image = pipeline(**embeds, generator=seed, num_inference_steps=4, height=16, width=16)
    yield image.images[0]


@both
def test_noise_is_prepared_and_images_are_processed_by_hand(lib, sd1):
    pipeline = quiet(lib.pipelines.StableDiffusionPipeline.from_pretrained(sd1))
    shape = (1, pipeline.unet.config.in_channels, pipeline.unet.config.sample_size, 8)
    latents = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(2))
    made = pipeline("red cat", latents=latents, num_inference_steps=4, output_type="latent").images
    with torch.no_grad():
        scaled = made / pipeline.vae.config.scaling_factor
        decoded = pipeline.vae.decode(scaled, return_dict=False)[0]
    for kind in ("pil", "np", "pt"):
        image = pipeline.image_processor.postprocess(decoded, output_type=kind)
        pixels = np.asarray(image[0], np.float64) * (1 if kind == "pil" else 255)
        yield pixels
    again = pipeline.image_processor.preprocess(Image.new("RGB", (17, 16), "white"))
    assert tuple(again.shape) == (1, 3, 16, 16) and float(again.min()) == 1.0


@both
def test_images_are_loaded_from_files(lib, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    loaded = lib.utils.load_image(str(tmp_path / "photo.png"))
    assert loaded.mode == "RGB" and loaded.tobytes() == photo.tobytes()
    yield loaded
    yield lib.utils.load_image(photo, convert_method=lambda image: image.convert("L"))


def test_what_the_helpers_refuse(sd1):
    from ldmref.compat.diffusers import StableDiffusionPipeline
    from ldmref.compat.diffusers.utils import load_image, make_image_grid

    with pytest.raises(ImageError, match="URLs are not opened"):
        load_image("https://example.org/cat.png")
    with pytest.raises(UsageError, match="1 images for a grid of 2 x 2"):
        make_image_grid([Image.new("RGB", (1, 1))], 2, 2)
    pipeline = StableDiffusionPipeline.from_pretrained(sd1)
    with pytest.raises(UsageError, match="does not support lora_scale"):
        pipeline.encode_prompt("red", lora_scale=0.5)
    assert pipeline.encode_prompt("red", "cpu", 2, False)[1] is None
