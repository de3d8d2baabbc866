"""A folder's scheduler_config.json decides the image: with `rng="torch"` diffusers' own latents.

Both sides read the same folder. Its weights stay; the scheduler is written anew for every case.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scheduled_folder import (
    DDIM,
    DDPM,
    DEIS,
    DPM,
    KDPM2,
    KDPM2_A,
    LINSPACE,
    LMS,
    MIN,
    OURS,
    PNDM,
    SD,
    SDE,
    SINGLE,
    SKIP,
    TRAILING,
    UNIPC,
    V,
    assert_close,
    seeded,
)

from ldmref import modes
from ldmref.io.diffusers.scheduler import convert_scheduler_config
from ldmref.samplers import SAMPLERS, configured_step, get_sampler, make_schedule, sample
from ldmref.testing.mixture import three_modes

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


TXT2IMG = {
    "dpmpp_2m ends above 0, 14 steps": (DPM, MIN | V, 14),
    "dpmpp_2m ends above 0, 15 steps": (DPM, MIN | V, 15),
    "dpmpp_2m keeps its order": (DPM, MIN | V | {"lower_order_final": False}, 14),
    "dpmpp_2m, Euler at the end": (DPM, MIN | V | {"euler_at_final": True}, 16),
    "dpmpp_2m_sde ends above 0": (DPM, SDE | MIN | V, 14),
    "dpmpp_3m, 14 steps": (DPM, {"solver_order": 3}, 14),
    "dpmpp_3m heun": (DPM, {"solver_order": 3, "solver_type": "heun"}, 6),
    "dpmpp_3m_sde": (DPM, SDE | {"solver_order": 3} | V, 6),
    "dpmpp_1": (DPM, {"solver_order": 1} | V, 3),
    "dpmpp_1_sde": (DPM, SDE | {"solver_order": 1} | V, 3),
    "dpm_solver order 1": (DPM, {"algorithm_type": "dpmsolver", "solver_order": 1} | MIN | V, 5),
    "dpm_solver_2m": (DPM, {"algorithm_type": "dpmsolver"} | MIN | V, 6),
    "dpm_solver_2m heun": (DPM, {"algorithm_type": "dpmsolver", "solver_type": "heun"} | MIN, 6),
    "dpm_solver_3m": (DPM, {"algorithm_type": "dpmsolver", "solver_order": 3} | MIN | V, 16),
    "dpm_solver_1_sde": (DPM, {"algorithm_type": "sde-dpmsolver", "solver_order": 1} | MIN | V, 5),
    "dpm_solver_2m_sde": (DPM, {"algorithm_type": "sde-dpmsolver"} | MIN | V, 6),
    "dpm_solver_2m_sde heun": (
        DPM, {"algorithm_type": "sde-dpmsolver", "solver_type": "heun"} | MIN | V, 6
    ),
    "unipc ends above 0": (UNIPC, MIN | V, 8),
    "unipc keeps its order": (UNIPC, MIN | V | {"lower_order_final": False}, 8),
    "unipc_3": (UNIPC, {"solver_order": 3} | V, 8),
    "unipc_1": (UNIPC, {"solver_order": 1} | V, 8),
    "unipc bh1": (UNIPC, {"solver_type": "bh1"} | MIN | V, 8),
    "unipc_3 bh1": (UNIPC, {"solver_type": "bh1", "solver_order": 3} | MIN | V, 8),
    "unipc of noise": (UNIPC, {"predict_x0": False} | MIN | V, 8),
    "unipc_3 of noise": (UNIPC, {"predict_x0": False, "solver_order": 3} | MIN | V, 8),
    "unipc_1 of noise": (UNIPC, {"predict_x0": False, "solver_order": 1} | MIN | V, 8),
    "unipc of noise, bh1": (UNIPC, {"predict_x0": False, "solver_type": "bh1"} | MIN | V, 8),
    "unipc does not always correct": (UNIPC, {"disable_corrector": [0, 3]} | V, 8),
    "pndm": (PNDM, SKIP, 8),
    "pndm v": (PNDM, SKIP | V, 20),
    "pndm linspace": (PNDM, SKIP | {"timestep_spacing": "linspace"}, 7),
    "pndm trailing": (PNDM, SKIP | {"timestep_spacing": "trailing"}, 7),
    "pndm, one step": (PNDM, SKIP, 1),
    "pndm, two steps": (PNDM, SKIP | {"set_alpha_to_one": True}, 2),
    "ddim linspace": (DDIM, {"timestep_spacing": "linspace"}, 7),
    "ddim trailing": (DDIM, {"timestep_spacing": "trailing"}, 7),
    "ddim thresholding": (DDIM, {"thresholding": True, "sample_max_value": 1.5} | V, 5),
    "ddim, betas of its own": (
        DDIM, {"trained_betas": np.linspace(1e-4, 0.02, 1000).tolist()} | V, 5
    ),
    "ddpm thresholding": (DDPM, {"thresholding": True, "dynamic_thresholding_ratio": 0.8}, 5),
    "ddpm, large variance": (DDPM, {"variance_type": "fixed_large"} | V, 5),
    "ddpm, large variance, linspace": (
        DDPM, {"variance_type": "fixed_large", "timestep_spacing": "linspace"} | V, 5
    ),
    "dpmpp_2m thresholding": (DPM, {"thresholding": True}, 6),
    "unipc thresholding": (UNIPC, {"thresholding": True, "sample_max_value": 2.0}, 6),
    "deis": (DEIS, V, 8),
    "deis, 16 steps": (DEIS, V, 16),
    "deis keeps its order": (DEIS, V | {"lower_order_final": False}, 8),
    "deis order 1": (DEIS, V | {"solver_order": 1}, 5),
    "deis order 3": (DEIS, V | {"solver_order": 3, "solver_type": "bh2"}, 8),
    "deis order 3, 16 steps": (DEIS, V | {"solver_order": 3}, 16),
    "deis thresholding": (DEIS, {"thresholding": True}, 6),
    "deis karras": (DEIS, V | {"use_karras_sigmas": True}, 8),
    "deis karras, 16 steps": (DEIS, V | {"use_karras_sigmas": True, "solver_order": 3}, 16),
    "deis exponential": (DEIS, V | {"use_exponential_sigmas": True}, 7),
    "deis trailing": (DEIS, V | TRAILING, 7),
    "kdpm2": (KDPM2, {}, 6),
    "kdpm2 v, leading": (KDPM2, V | {"timestep_spacing": "leading"}, 6),
    "kdpm2 karras": (KDPM2, V | {"use_karras_sigmas": True}, 6),
    "kdpm2 exponential, trailing": (KDPM2, V | TRAILING | {"use_exponential_sigmas": True}, 6),
    "kdpm2 a": (KDPM2_A, V, 6),
    "kdpm2 a karras": (KDPM2_A, V | {"use_karras_sigmas": True}, 6),
    "kdpm2 a beta, trailing": (KDPM2_A, V | TRAILING | {"use_beta_sigmas": True}, 6),
    "lcm": ("LCMScheduler", {}, 4),
    "lcm v, 50 steps": ("LCMScheduler", V, 50),
    "lcm of 30 timesteps": ("LCMScheduler", V | {"original_inference_steps": 30}, 7),
    "lcm, clipped": ("LCMScheduler", V | {"thresholding": True}, 4),
    "deis karras, one step": (DEIS, V | {"use_karras_sigmas": True}, 1),
    "deis exponential, one step": (DEIS, {"use_exponential_sigmas": True}, 1),
    "unipc karras ends above 0, one step": (UNIPC, V | MIN | {"use_karras_sigmas": True}, 1),
    "singlestep, 8 steps": (SINGLE, V, 8),
    "singlestep, 7 steps": (SINGLE, V, 7),
    "singlestep ends above 0": (SINGLE, V | MIN, 8),
    "singlestep ends above 0, lower": (SINGLE, V | MIN | {"lower_order_final": True}, 8),
    "singlestep heun": (SINGLE, V | MIN | {"solver_type": "heun"}, 8),
    "singlestep order 1": (SINGLE, V | {"solver_order": 1}, 5),
    "singlestep order 3, 9 steps": (SINGLE, V | MIN | {"solver_order": 3}, 9),
    "singlestep order 3, 10 steps": (SINGLE, V | MIN | {"solver_order": 3}, 10),
    "singlestep order 3, 11 steps": (
        SINGLE, V | MIN | {"solver_order": 3, "solver_type": "heun", "lower_order_final": True}, 11
    ),
    "singlestep order 3 to 0": (SINGLE, V | {"solver_order": 3, "solver_type": "heun"}, 9),
    "singlestep karras": (SINGLE, V | {"use_karras_sigmas": True}, 8),
    "singlestep thresholding": (SINGLE, {"thresholding": True}, 6),
    "singlestep sde order 1": (SINGLE, V | SDE | {"solver_order": 1}, 5),
    "singlestep of noise order 1": (
        SINGLE, V | MIN | {"solver_order": 1, "algorithm_type": "dpmsolver"}, 5
    ),
    "parallel ddim": ("DDIMParallelScheduler", V, 5),
    "parallel ddpm": ("DDPMParallelScheduler", V, 5),
    "lu": (DPM, {"use_lu_lambdas": True} | V, 7),
    "exponential": (DPM, {"use_exponential_sigmas": True}, 7),
    "unipc exponential": (UNIPC, {"use_exponential_sigmas": True}, 7),
    "no lower than lambda": (
        DPM, {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1} | V, 7
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TXT2IMG)
@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_txt2img(scheduled, name):
    kind, options, steps = TXT2IMG[name]
    pipe, model = scheduled(kind, options)
    size = {"width": 32, "height": 16}
    asked = {"num_inference_steps": steps, "output_type": "latent"} | size
    want = pipe("red cat", **asked, **seeded()).images.numpy()
    assert_close(modes.txt2img(model, "red cat", steps=steps, **size, **OURS).latents, want)


@pytest.mark.parametrize("kind", [DDIM, DDPM, "HeunDiscreteScheduler"])
@pytest.mark.parametrize("family", ["sdxl"], indirect=True)
def test_clipped_predictions(scheduled, kind):
    """SDXL's pipelines leave `clip_sample` as it is; those of Stable Diffusion turn it off."""
    pipe, model = scheduled(kind, {"clip_sample": True, "clip_sample_range": 0.7})
    asked = {"num_inference_steps": 4, "output_type": "latent", "width": 16, "height": 16}
    want = pipe("red cat", **asked, **seeded()).images.numpy()
    got = modes.txt2img(model, "red cat", steps=4, width=16, height=16, **OURS).latents
    assert model.config.scheduler.clip_sample_range == 0.7
    assert_close(got, want)


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 3)).astype(np.uint8)
    return Image.fromarray(pixels).resize((32, 16), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def disc():
    """Return a mask whose edge crosses latent cells."""
    y, x = np.mgrid[:16, :32]
    return Image.fromarray((((y - 7) ** 2 + (x - 13) ** 2 < 37) * 255).astype(np.uint8))


IMG2IMG = {
    "pndm in the middle": (PNDM, SKIP, 8, 0.5),
    "pndm at the second step": (PNDM, SKIP, 8, 0.9),
    "pndm at the third step": (PNDM, SKIP, 8, 0.8),
    "pndm at the last step": (PNDM, SKIP, 8, 0.13),
    "pndm v": (PNDM, SKIP | V, 20, 0.6),
    "pndm linspace": (PNDM, SKIP | LINSPACE, 7, 0.6),
    "pndm trailing": (PNDM, SKIP | TRAILING, 7, 0.6),
    "lms": (LMS, V, 20, 0.5),
    "lms near the start": (LMS, V, 8, 0.9),
    "ddim trailing": (DDIM, TRAILING | V, 7, 0.6),
    "dpmpp_2m": (DPM, MIN | V, 10, 0.6),
    "dpmpp_3m": (DPM, {"solver_order": 3} | V, 10, 0.6),
    "unipc_3": (UNIPC, {"solver_order": 3, "disable_corrector": [6]} | V, 10, 0.6),
    "heun": ("HeunDiscreteScheduler", V, 6, 0.6),
    "deis order 3": (DEIS, V | {"solver_order": 3}, 10, 0.6),
    "kdpm2": (KDPM2, V, 6, 0.6),
    "kdpm2 a": (KDPM2_A, V, 6, 0.6),
    "lcm": ("LCMScheduler", V, 6, 0.6),
    "singlestep at an odd step": (SINGLE, V | MIN, 10, 0.5),
    "singlestep of order 3 at a third step": (SINGLE, V | MIN | {"solver_order": 3}, 9, 0.8),
    "singlestep of order 3 at a second step": (SINGLE, V | MIN | {"solver_order": 3}, 9, 0.6),
}


@pytest.mark.parametrize("name", IMG2IMG)
@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_img2img(scheduled, image, name):
    kind, options, steps, strength = IMG2IMG[name]
    pipe, model = scheduled(kind, options, diffusers.StableDiffusionImg2ImgPipeline)
    asked = {"num_inference_steps": steps, "output_type": "latent", "strength": strength}
    want = pipe("red cat", image, **asked, **seeded()).images.numpy()
    got = modes.img2img(model, "red cat", image, strength, steps=steps, **OURS)
    assert_close(got.latents, want)


INPAINT = {
    "ddim": (DDIM, {"clip_sample": False}), "pndm": (PNDM, SKIP), "pndm v": (PNDM, SKIP | V),
    "heun": ("HeunDiscreteScheduler", V), "euler": ("EulerDiscreteScheduler", V),
    "kdpm2": (KDPM2, V), "kdpm2 a": (KDPM2_A, V), "lcm": ("LCMScheduler", V),
    "deis": (DEIS, V), "singlestep": (SINGLE, V),
}  # fmt: skip


@pytest.mark.parametrize("strength", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("name", INPAINT)
@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_inpainting_across_latent_cells(scheduled, image, disc, name, strength):
    pipe, model = scheduled(*INPAINT[name], diffusers.StableDiffusionInpaintPipeline)
    asked = {"num_inference_steps": 6, "width": 32, "height": 16, "strength": strength}
    want = np.asarray(pipe("red cat", image, disc, **asked, **seeded()).images[0], int)
    got = np.asarray(modes.inpaint(model, "red cat", image, disc, strength, steps=6, **OURS)[0])
    white = np.asarray(disc) > 0
    assert np.abs(got.astype(int) - want)[white].max() <= 2
    assert (got == np.asarray(image))[~white].all()


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_what_is_known_is_clean_only_at_the_end_where_the_last_sigma_occurs_twice(
    scheduled, image, disc
):
    options = V | MIN | {"use_karras_sigmas": True}
    pipe, model = scheduled(UNIPC, options, diffusers.StableDiffusionInpaintPipeline)
    asked = {"num_inference_steps": 6, "width": 32, "height": 16, "output_type": "latent"}
    want = pipe("red cat", image, disc, **asked, **seeded()).images.numpy()
    schedule = make_schedule(model.config.scheduler, get_sampler("unipc"), None, 6)
    assert schedule.sigmas[-1] == schedule.sigmas[-2]
    got = modes.inpaint(model, "red cat", image, disc, 1.0, steps=6, **OURS)
    assert_close(got.latents, want)


@pytest.mark.parametrize("family", ["sd1-inpainting"], indirect=True)
def test_pndm_with_channels_for_the_mask(scheduled, image, disc):
    pipe, model = scheduled(PNDM, SKIP)
    asked = {"num_inference_steps": 6, "width": 32, "height": 16, "strength": 0.6}
    want = np.asarray(pipe("red cat", image, disc, **asked, **seeded()).images[0], int)
    got = np.asarray(modes.inpaint(model, "red cat", image, disc, 0.6, steps=6, **OURS)[0], int)
    assert np.abs(got - want)[np.asarray(disc) > 0].max() <= 2


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
def test_the_torch_backend_too(scheduled, image):
    pipe, model = scheduled(
        PNDM, SKIP | V, diffusers.StableDiffusionImg2ImgPipeline, backend="torch"
    )
    asked = {"num_inference_steps": 8, "output_type": "latent", "strength": 0.5}
    want = pipe("red cat", image, **asked, **seeded()).images.numpy()
    assert_close(modes.img2img(model, "red cat", image, 0.5, steps=8, **OURS).latents, want)
    for kind, options in ((UNIPC, {"predict_x0": False} | MIN | V), (DPM, {"thresholding": True})):
        pipe, model = scheduled(kind, options, backend="torch")
        asked = {"num_inference_steps": 6, "output_type": "latent", "width": 16, "height": 16}
        want = pipe("red cat", **asked, **seeded()).images.numpy()
        got = modes.txt2img(model, "red cat", steps=6, width=16, height=16, **OURS).latents
        assert_close(got, want)


@pytest.mark.parametrize("kind,options", [(PNDM, SKIP), (LMS, {})])
def test_what_diffusers_gets_wrong_is_done_only_where_it_is_asked_for(kind, options):
    """From the middle of the grid, against as many steps as make no difference."""
    config = convert_scheduler_config({"_class_name": kind} | SD | options)
    n = 100
    mixture = three_modes()
    off = {}
    sampler = get_sampler(config.sampler)
    schedule = make_schedule(config, sampler, config.spacing, n)
    for buggy in (False, True):
        step, visits = configured_step(
            config, sampler, schedule, first_step=n // 2, bug_compatible=buggy
        )
        sigmas = schedule.sigmas[visits[0] :]
        x = sigmas[0] * np.random.default_rng(0).standard_normal((16, 2))
        got = list(sample(mixture.denoise, x, schedule.sigmas, step, visits=visits[:-1]))[-1].x
        fine = np.geomspace(sigmas[0], sigmas[-2], 400)
        want = list(sample(mixture.denoise, x, fine, SAMPLERS["rk4"].make()))[-1].x
        off[buggy] = np.abs(got - want).max()
    assert off[False] < 0.004 and off[True] > 3 * off[False], off
