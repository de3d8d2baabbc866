"""Right runs of small diffusers pipelines, in which the locator must find nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import diffusers
import numpy as np

SIZES = {"original_size": (32, 24), "target_size": (16, 16), "crops_coords_top_left": (2, 4)}
NEGATIVE = {
    "negative_original_size": (8, 8),
    "negative_target_size": (24, 24),
    "negative_crops_coords_top_left": (1, 0),
}
SIGMAS = [14.6, 3.1, 0.7, 0.1]
ZERO = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "clip_sample": False}
ZERO_OF_EULER = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
KARRAS = {"use_karras_sigmas": True}
STRONG = {"strength": 0.7}


class Run(NamedTuple):
    """A run: the family, its scheduler with fields, the pipeline's arguments, its number format."""

    name: str
    family: str
    scheduler: str = ""
    fields: dict[str, Any] = {}  # noqa: RUF012
    arguments: dict[str, Any] = {}  # noqa: RUF012
    kind: str = ""
    dtype: str = "float32"


RUNS = (
    Run("sizes", "sdxl", arguments=SIZES),
    Run("negative sizes", "sdxl", arguments=SIZES | NEGATIVE),
    Run("clip skip", "sd1", arguments={"clip_skip": 1}),
    Run("clip skip of SDXL", "sdxl", arguments={"clip_skip": 1}),
    Run("sigmas", "sdxl", "EulerDiscreteScheduler", {}, {"sigmas": SIGMAS}),
    Run("timesteps", "sd1", "DDPMScheduler", {"clip_sample": False}, {"timesteps": [900, 500, 20]}),
    Run("zero terminal SNR", "sd2", "DDIMScheduler", ZERO),
    Run("zero terminal SNR of DDPM", "sd2", "DDPMScheduler", ZERO),
    Run("zero terminal SNR of Euler", "sd2", "EulerDiscreteScheduler", ZERO_OF_EULER),
    Run("KDPM2 ancestral", "sd1", "KDPM2AncestralDiscreteScheduler"),
    Run("KDPM2 ancestral, Karras", "sd1", "KDPM2AncestralDiscreteScheduler", KARRAS),
    Run("Heun", "sd1", "HeunDiscreteScheduler"),
    Run("Euler ancestral", "sd1", "EulerAncestralDiscreteScheduler"),
    Run("Karras", "sd1", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    Run("UniPC", "sd1", "UniPCMultistepScheduler"),
    Run("LMS", "sd1", "LMSDiscreteScheduler"),
    Run("DDPM", "sd1", "DDPMScheduler", {"clip_sample": False}),
    Run("DDIM with eta", "sd1", "DDIMScheduler", {"clip_sample": False}, {"eta": 0.7}),
    Run("linear betas", "sd1", "DDIMScheduler", {"clip_sample": False, "beta_schedule": "linear"}),
    Run("without guidance", "sd1", arguments={"guidance_scale": 1.0}),
    Run("rescaled guidance", "sd2", arguments={"guidance_rescale": 0.7}),
    Run("two images", "sd1", arguments={"num_images_per_prompt": 2}),
    Run("exponential", "sd1", "EulerDiscreteScheduler", {"use_exponential_sigmas": True}),
    Run("beta", "sd1", "EulerDiscreteScheduler", {"use_beta_sigmas": True}),
    Run("SDE", "sd1", "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    Run("single steps", "sd1", "DPMSolverSinglestepScheduler"),
    Run("DEIS", "sd1", "DEISMultistepScheduler", KARRAS),
    Run("PNDM trailing", "sd1", "PNDMScheduler", {"timestep_spacing": "trailing"}),
    Run("thresholding", "sd1", "DDPMScheduler", {"clip_sample": False, "thresholding": True}),
    Run("LCM", "sd1", "LCMScheduler"),
    Run("TCD", "sd1", "TCDScheduler"),
    Run("v and Heun, Karras", "sd2", "HeunDiscreteScheduler", KARRAS),
    Run("two prompts of SDXL", "sdxl", arguments={"prompt_2": "a blue dog"}),
    Run("end of SDXL's base", "sdxl", arguments={"denoising_end": 0.6}),
    Run("bfloat16", "sd2", "DPMSolverMultistepScheduler", KARRAS, dtype="bfloat16"),
    Run("float16", "sd1", "EulerAncestralDiscreteScheduler", dtype="float16"),
    Run("float16 and Heun", "sd1", "HeunDiscreteScheduler", KARRAS, dtype="float16"),
    Run("img2img between timesteps", "sd1", "EulerDiscreteScheduler", {}, STRONG, "img2img"),
    Run("img2img, Karras", "sd1", "DPMSolverMultistepScheduler", KARRAS, STRONG, "img2img"),
    Run("inpainting, ancestral", "sd1", "EulerAncestralDiscreteScheduler", {}, STRONG, "inpaint"),
    Run("inpainting, PNDM", "sd1", "PNDMScheduler", {}, {}, "inpaint"),
    Run("inpainting, zero terminal SNR", "sd2", "DDIMScheduler", ZERO, {}, "inpaint"),
    Run("img2img", "sd1", "EulerDiscreteScheduler", {}, {"strength": 0.6}, "img2img"),
    Run(
        "inpainting of a text model", "sd1", "DDIMScheduler", {"clip_sample": False}, {}, "inpaint"
    ),
    Run(
        "inpainting model", "sd1-inpainting", "DDIMScheduler", {"clip_sample": False}, {}, "inpaint"
    ),
)


def prepare(pipe: Any, run: Run) -> None:
    """Give a pipeline the scheduler of a run."""
    if run.scheduler:
        made = getattr(diffusers, run.scheduler)
        pipe.scheduler = made.from_config(pipe.scheduler.config, **run.fields)


def with_image(pipe: Any, run: Run) -> tuple[Any, dict[str, Any]]:
    """Return the pipeline of a run, and its arguments."""
    arguments = dict(run.arguments)
    if "clip_skip" in arguments and not hasattr(pipe.text_encoder, "text_model"):
        vars(pipe.text_encoder)["text_model"] = pipe.text_encoder  # as before transformers 5
    if not run.kind:
        return pipe, arguments
    arguments["image"] = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    if run.kind == "img2img":
        pipe = diffusers.StableDiffusionImg2ImgPipeline(
            **pipe.components, requires_safety_checker=False
        )
    else:
        arguments |= {"mask_image": np.eye(16, dtype=np.float32)[None], "height": 16, "width": 16}
        pipe = diffusers.StableDiffusionInpaintPipeline(
            **pipe.components, requires_safety_checker=False
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe, arguments
