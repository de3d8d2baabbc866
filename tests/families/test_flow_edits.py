"""img2img and inpaint of SD3 and Flux against the pipelines of diffusers, with torch's noise."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from flux_networks import make_pipeline as make_flux  # noqa: E402
from sd3_networks import make_pipeline as make_sd3  # noqa: E402

PROMPT = "a red cat"
SIZE = {"width": 24, "height": 16}
SEED = 7
OF_DIFFUSERS = {
    ("sd3", "img2img"): diffusers.StableDiffusion3Img2ImgPipeline,
    ("sd3", "inpaint"): diffusers.StableDiffusion3InpaintPipeline,
    ("flux", "img2img"): diffusers.FluxImg2ImgPipeline,
    ("flux", "inpaint"): diffusers.FluxInpaintPipeline,
}


def make_sd3_of_16_channels():
    """The inpainting pipeline of SD3 refuses transformers of another number of channels."""
    pipe = make_sd3("3.5 medium")
    torch.manual_seed(0)
    channels = {"in_channels": 16, "out_channels": 16}
    transformer = type(pipe.transformer).from_config({**pipe.transformer.config, **channels})
    vae = type(pipe.vae).from_config({**pipe.vae.config, "latent_channels": 16})
    return type(pipe)(**{**pipe.components, "transformer": transformer.eval(), "vae": vae.eval()})


@pytest.fixture(scope="module", params=["sd3", "flux"])
def made(request, tmp_path_factory):
    """(family, diffusers' pipeline for text, the folder that it writes)."""
    pipe = make_sd3_of_16_channels() if request.param == "sd3" else make_flux(True)
    folder = tmp_path_factory.mktemp(request.param) / "model"
    pipe.save_pretrained(folder)
    return request.param, pipe, folder


@pytest.fixture(scope="module")
def photo():
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (4, 6, 3), np.uint8)
    return Image.fromarray(small).resize((24, 16), Image.Resampling.BICUBIC)


def ask_diffusers(made, mode, **options):
    family, pipe, _ = made
    of_mode = OF_DIFFUSERS[family, mode](**pipe.components)
    of_mode.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(SEED)
    latents = of_mode(PROMPT, generator=generator, output_type="latent", **options, **SIZE).images
    if family == "flux":
        latents = pipe._unpack_latents(latents, SIZE["height"], SIZE["width"], 2)
    return decode(pipe, latents, pipe.vae.config.shift_factor)


def decode(pipe, latents, shift):
    with torch.no_grad():
        image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor + shift).sample
    return pipe.image_processor.postprocess(image, output_type="np")[0]


def compare(found, want):
    difference = np.abs(np.asarray(found.images[0]).astype(int) - np.round(want * 255))
    assert difference.max() <= 1


@pytest.mark.parametrize("strength", [0.5, 0.8])
def test_img2img(made, photo, strength):
    scale = {"guidance_scale": 3.0}
    options = {"num_inference_steps": 5, "strength": strength}
    want = ask_diffusers(made, "img2img", image=photo, **scale, **options)
    model = ldmref.load(made[2])
    options = {"steps": 5, "strength": strength, "cfg_scale": 3.0, "rng": "torch", "seed": SEED}
    compare(modes.img2img(model, PROMPT, photo, **options), want)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_inpaint(made, photo, strength):
    mask = Image.new("L", photo.size, 0)
    mask.paste(255, (0, 0, 12, 16))
    options = {"num_inference_steps": 4, "strength": strength, "guidance_scale": 3.0}
    want = ask_diffusers(made, "inpaint", image=photo, mask_image=mask, **options)
    model = ldmref.load(made[2])
    options = {"steps": 4, "strength": strength, "cfg_scale": 3.0, "rng": "torch", "seed": SEED}
    found = modes.inpaint(model, PROMPT, photo, mask, **options)
    left = np.s_[:, :10]  # ldmref pastes what the mask keeps
    difference = np.abs(np.asarray(found.images[0]).astype(int) - np.round(want * 255))
    assert difference[left].max() <= 1


def test_inpainting_of_sd3_decodes_without_the_shift(made, photo):
    """The image of diffusers' pipeline is that of its latents, decoded without `shift_factor`."""
    family, pipe, _ = made
    if family != "sd3":
        pytest.skip("Flux adds its shift")
    of_mode = OF_DIFFUSERS["sd3", "inpaint"](**pipe.components)
    options = {"image": photo, "mask_image": Image.new("L", photo.size, 255), **SIZE}
    options |= {"num_inference_steps": 1, "strength": 1.0}
    latents, image = (
        of_mode(PROMPT, generator=torch.Generator().manual_seed(1), output_type=kind, **options)
        for kind in ("latent", "np")
    )
    assert pipe.vae.config.shift_factor == 0.0609
    without, right = (decode(pipe, latents.images, shift) for shift in (0.0, 0.0609))
    assert abs(image.images[0] - without).max() < 1e-5 < abs(right - without).max()


def test_strength_keeps_a_step_more_on_the_flow(made, photo):
    options = {"prompt": PROMPT, "image": photo, "steps": 5, "strength": 0.5}
    evaluated = {
        modes.plan("img2img", model, **options).estimate(model).evaluations
        for model in (ldmref.load(made[2]), ldmref.random_model("tiny"))
    }
    assert len(evaluated) == 2
