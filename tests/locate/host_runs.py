"""Runs of small diffusers pipelines of every family, whose wires between networks are judged.

`RIGHT` has right runs with the options of the pipelines; `host_faults.py` has faults.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
from flux_networks import make_control_pipeline, make_fill_pipeline
from flux_networks import make_pipeline as make_flux
from PIL import Image
from sd3_networks import make_pipeline as make_sd3
from small_pipelines import pipeline

import ldmref
from ldmref.locate.pipeline import follow_diffusers, judge_host
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.trace import Selection, read_trace, record_pipeline
from ldmref.trace.model import without_own_arguments

STEPS = 3
PIXELS = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
WHITE = np.zeros((16, 16), np.float32)
WHITE[:8, 4:] = 1.0
PHOTO = Image.fromarray((255.0 * PIXELS[0]).astype(np.uint8))
MASK = Image.fromarray((255.0 * WHITE).astype(np.uint8))
MAKERS = {
    "sd3": lambda: make_sd3("3 medium"),
    "sd3 without T5": lambda: make_sd3("3 medium", with_t5=False),
    "sd35": lambda: make_sd3("3.5 medium"),
    "dev": lambda: make_flux(True),
    "schnell": lambda: make_flux(False),
    "fill": make_fill_pipeline,
    "control": make_control_pipeline,
}
CLASSES = {  # of pipelines by kind and family
    ("img2img", "sd1"): "StableDiffusionImg2ImgPipeline",
    ("inpaint", "sd1"): "StableDiffusionInpaintPipeline",
    ("pag", "sd1"): "StableDiffusionPAGPipeline",
    ("img2img", "sdxl"): "StableDiffusionXLImg2ImgPipeline",
    ("inpaint", "sdxl"): "StableDiffusionXLInpaintPipeline",
    ("img2img", "sd3"): "StableDiffusion3Img2ImgPipeline",
    ("img2img", "dev"): "FluxImg2ImgPipeline",
    ("inpaint", "dev"): "FluxInpaintPipeline",
    ("img2img", "control"): "FluxControlImg2ImgPipeline",
}
FROM_IMAGE = {"image": PHOTO, "strength": 0.7}
MASKED = {**FROM_IMAGE, "mask_image": MASK}
TWO = {"prompt": ["a red cat", "dog"], "negative_prompt": ["x", "y"], "num_images_per_prompt": 2}
TRUE_CFG = {"negative_prompt": "dog", "true_cfg_scale": 3.0}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
EULER = "EulerDiscreteScheduler"
FLOW_EULER = "FlowMatchEulerDiscreteScheduler"
NOISE = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 4, 8, 8), np.float32))


class HostRun(NamedTuple):
    """A run: its pipeline, its arguments, its number format, and the verdict that it gets.

    `reason` is a part of the notes of a run that is "incomplete".
    """

    name: str
    family: str
    kind: str = ""
    arguments: dict[str, Any] = {}  # noqa: RUF012
    scheduler: str = ""
    fields: dict[str, Any] = {}  # noqa: RUF012
    dtype: str = "float32"
    reason: str = ""


def keep_all(pipe, i, t, values):
    return values


def end_guidance(pipe, i, t, values):
    """Switch guidance off after the second step, as diffusers' page on callbacks does."""
    if i == 1:
        pipe._guidance_scale = 0.0
        values["prompt_embeds"] = values["prompt_embeds"].chunk(2)[-1]
    return values


def shrink_latents(pipe, i, t, values):
    return {"latents": 0.9 * values["latents"]}


EMBEDS = "embeds"  # hidden states of both prompts; after "prompt " or "negative ", of one
CALLED = {"callback_on_step_end": keep_all}
ENDED = {
    "callback_on_step_end": end_guidance,
    "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
}
SKIPPED = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0}
SEVERAL = {f"{n}prompt{i}": f"{n}{i} a cat" for n in ("", "negative_") for i in ("", "_2", "_3")}
UNSUPPORTED = "has no equal in ldmref"
RIGHT = (
    HostRun("plain", "sd1"),
    HostRun("negative", "sd1", "", {"negative_prompt": "dog"}),
    HostRun("two prompts", "sd1", "", TWO),
    HostRun("guidance off", "sd1", "", {"guidance_scale": 1.0}),
    HostRun("rescaled", "sd1", "", {"guidance_rescale": 0.5}),
    HostRun("not square", "sd1", "", {"width": 24}),
    HostRun("latents given", "sd1", "", {"latents": NOISE}),
    HostRun("latents given to Euler", "sd1", "", {"latents": NOISE}, EULER),
    HostRun("zeros given", "sd1", "", {"latents": 0.0 * NOISE}),
    HostRun("latents returned", "sd1", "", {"output_type": "latent"}),
    HostRun("an unused eta", "sd1", "", {"eta": 0.3}, EULER),
    HostRun("a long prompt", "sd1", "", {"prompt": "a red cat " * 40}),
    HostRun("hidden states given", "sd1", "embeds"),
    HostRun("hidden states of the prompt given", "sd1", "prompt embeds"),
    HostRun("hidden states of the negative prompt given", "sd1", "negative embeds"),
    HostRun("several images of hidden states", "sd1", "embeds", {"num_images_per_prompt": 2}),
    HostRun("callback", "sd1", "", CALLED),
    HostRun("callback that ends guidance", "sd1", "", ENDED, EULER),
    HostRun("callback that ends guidance within a level", "sd1", "", ENDED, reason="one level"),
    HostRun(
        "callback on latents",
        "sd1",
        "",
        {"callback_on_step_end": shrink_latents},
        reason="callback",
    ),
    HostRun("float16", "sd1", dtype="float16"),
    HostRun("bfloat16", "sd1", dtype="bfloat16"),
    HostRun("img2img", "sd1", "img2img", FROM_IMAGE),
    HostRun("img2img of an array", "sd1", "img2img", {**FROM_IMAGE, "image": PIXELS}),
    HostRun("img2img at 1", "sd1", "img2img", {**FROM_IMAGE, "strength": 1.0}),
    HostRun("img2img at 0.35", "sd1", "img2img", {**FROM_IMAGE, "strength": 0.35}),
    HostRun("img2img, two images", "sd1", "img2img", {**FROM_IMAGE, "num_images_per_prompt": 2}),
    HostRun(
        "img2img of two images",
        "sd1",
        "img2img",
        {**FROM_IMAGE, "image": [PHOTO, PHOTO.rotate(90)], "prompt": ["a", "b"]},
    ),
    HostRun("img2img of latents", "sd1", "img2img", {**FROM_IMAGE, "image": NOISE}),
    HostRun("img2img in bfloat16", "sd1", "img2img", FROM_IMAGE, dtype="bfloat16"),
    HostRun("img2img, ancestral", "sd1", "img2img", FROM_IMAGE, "EulerAncestralDiscreteScheduler"),
    HostRun("inpaint", "sd1", "inpaint", MASKED),
    HostRun("inpaint at 1", "sd1", "inpaint", {**MASKED, "strength": 1.0}),
    HostRun("inpaint, two images", "sd1", "inpaint", {**MASKED, "num_images_per_prompt": 2}),
    HostRun("inpaint without guidance", "sd1", "inpaint", {**MASKED, "guidance_scale": 1.0}),
    HostRun(
        "inpaint, resized",
        "sd1",
        "inpaint",
        {**MASKED, "image": PHOTO.resize((20, 24)), "mask_image": MASK.resize((20, 24))},
    ),
    HostRun("inpaint in bfloat16", "sd1", "inpaint", MASKED, dtype="bfloat16"),
    HostRun("inpainting model", "sd1-inpainting", "", MASKED),
    HostRun("inpainting model at 1", "sd1-inpainting", "", {**MASKED, "strength": 1.0}),
    HostRun("inpainting model in bfloat16", "sd1-inpainting", "", MASKED, dtype="bfloat16"),
    HostRun("inpainting model, Euler", "sd1-inpainting", "", MASKED, EULER),
    HostRun("perturbed attention", "sd1", "pag", {"pag_scale": 3.0}),
    HostRun("perturbed, without guidance", "sd1", "pag", {"pag_scale": 3.0, "guidance_scale": 1.0}),
    HostRun("perturbed, adaptive", "sd1", "pag", {"pag_scale": 3.0, "pag_adaptive_scale": 0.005}),
    HostRun("sdxl", "sdxl"),
    HostRun("sdxl, empty negative", "sdxl", "", {"negative_prompt": ""}),
    HostRun("sdxl, prompts 2", "sdxl", "", {"prompt_2": "z", "negative_prompt_2": "y"}),
    HostRun("sdxl, two prompts", "sdxl", "", TWO),
    HostRun("sdxl without guidance", "sdxl", "", {"guidance_scale": 1.0}),
    HostRun("sdxl, hidden states", "sdxl", "embeds"),
    HostRun("sdxl, hidden states of the prompt", "sdxl", "prompt embeds"),
    HostRun("sdxl, hidden states of the negative prompt", "sdxl", "negative embeds"),
    HostRun("sdxl, sizes", "sdxl", "", {"original_size": (32, 24), "target_size": (16, 16)}),
    HostRun("sdxl in bfloat16", "sdxl", dtype="bfloat16"),
    HostRun("sdxl img2img", "sdxl", "img2img", FROM_IMAGE),
    HostRun("sdxl inpaint", "sdxl", "inpaint", MASKED),
    HostRun("sdxl, end of the base", "sdxl", "", {"denoising_end": 0.6}),
    HostRun("sd3", "sd3"),
    HostRun("sd3, three prompts", "sd3", "", SEVERAL),
    HostRun("sd3, 77 tokens", "sd3", "", {"max_sequence_length": 77}),
    HostRun("sd3, 512 tokens", "sd3", "", {"max_sequence_length": 512}),
    HostRun("sd3 without guidance", "sd3", "", {"guidance_scale": 1.0}),
    HostRun("sd3, two prompts", "sd3", "", TWO),
    HostRun("sd3, skipped layers", "sd3", "", SKIPPED),
    HostRun("sd3, sigmas", "sd3", "", {"sigmas": [1.0, 0.6, 0.2]}),
    HostRun("sd3, latents", "sd3", "", {"latents": NOISE}),
    HostRun("sd3, hidden states", "sd3", "embeds"),
    HostRun("sd3, hidden states of the prompt", "sd3", "prompt embeds"),
    HostRun("sd3, hidden states of the negative prompt", "sd3", "negative embeds"),
    HostRun("sd3, not square", "sd3", "", {"width": 24}),
    HostRun("sd3, an unused mu", "sd3", "", {"mu": 0.7}),
    HostRun(
        "sd3, a shift by mu", "sd3", "", {"mu": 0.7}, FLOW_EULER, {"use_dynamic_shifting": True}
    ),
    HostRun("sd3, a shift by size", "sd3", "", {}, FLOW_EULER, {"use_dynamic_shifting": True}),
    HostRun("sd3 in bfloat16", "sd3", dtype="bfloat16"),
    HostRun("sd3.5 in bfloat16", "sd35", "", {"negative_prompt": "dog"}, dtype="bfloat16"),
    HostRun("sd3 without T5", "sd3 without T5"),
    HostRun("sd3 without T5, 77", "sd3 without T5", "", {"max_sequence_length": 77}),
    HostRun("sd3 img2img", "sd3", "img2img", FROM_IMAGE),
    HostRun("sd3 img2img at 1", "sd3", "img2img", {**FROM_IMAGE, "strength": 1.0}),
    HostRun("flow Heun", "sd3", "", {}, "FlowMatchHeunDiscreteScheduler"),
    HostRun("flow LCM", "sd3", "", {}, "FlowMatchLCMScheduler", reason=UNSUPPORTED),
    HostRun("flow UniPC", "sd3", "", {}, "UniPCMultistepScheduler", FLOW, reason=UNSUPPORTED),
    HostRun("flow DPM++", "sd3", "", {}, "DPMSolverMultistepScheduler", FLOW, reason=UNSUPPORTED),
    HostRun(
        "flow Karras", "sd3", "", {}, FLOW_EULER, {"use_karras_sigmas": True}, reason=UNSUPPORTED
    ),
    HostRun(
        "flow exponential",
        "sd3",
        "",
        {},
        FLOW_EULER,
        {"use_exponential_sigmas": True},
        reason=UNSUPPORTED,
    ),
    HostRun("flow beta", "sd3", "", {}, FLOW_EULER, {"use_beta_sigmas": True}, reason=UNSUPPORTED),
    HostRun("dev", "dev"),
    HostRun("dev, prompt 2", "dev", "", {"prompt_2": "a dog", "guidance_scale": 5.0}),
    HostRun("dev, not square", "dev", "", {"width": 24}),
    HostRun("dev, true guidance", "dev", "", TRUE_CFG),
    HostRun("dev, two images", "dev", "", {**TRUE_CFG, "num_images_per_prompt": 2}),
    HostRun("dev, an unused negative", "dev", "", {"negative_prompt": "dog"}),
    HostRun("dev, two prompts", "dev", "", {"prompt": ["a", "b"], "max_sequence_length": 64}),
    HostRun("dev, hidden states", "dev", "embeds"),
    HostRun("dev, sigmas", "dev", "", {"sigmas": [1.0, 0.6, 0.2]}),
    HostRun("dev in bfloat16", "dev", dtype="bfloat16"),
    HostRun("dev in bfloat16, true guidance", "dev", "", TRUE_CFG, dtype="bfloat16"),
    HostRun("dev img2img", "dev", "img2img", FROM_IMAGE),
    HostRun("dev inpaint", "dev", "inpaint", MASKED),
    HostRun("schnell, 256 tokens", "schnell", "", {"max_sequence_length": 256}),
    HostRun("schnell in bfloat16", "schnell", dtype="bfloat16"),
    HostRun("fill", "fill", "", {"image": PHOTO, "mask_image": MASK, "guidance_scale": 30.0}),
    HostRun("fill, two images", "fill", "", {**MASKED, "num_images_per_prompt": 2}),
    HostRun("fill in bfloat16", "fill", "", MASKED, dtype="bfloat16"),
    HostRun("control", "control", "", {"control_image": PHOTO}),
    HostRun("control img2img", "control", "img2img", {**FROM_IMAGE, "control_image": PHOTO}),
)


def make(family: str) -> Any:
    """Return a seeded random pipeline of a family."""
    torch.manual_seed(0)
    return MAKERS[family]() if family in MAKERS else pipeline(family)


def prepare(run: HostRun) -> Any:
    """Return the pipeline of a run."""
    pipe = make(run.family)
    if run.scheduler or run.fields:
        made = getattr(diffusers, run.scheduler)
        pipe.scheduler = made.from_config(pipe.scheduler.config, **run.fields)
    name = CLASSES.get((run.kind, run.family))
    if name is not None:
        optional = ("safety_checker", "feature_extractor") if run.family == "sd1" else ()
        parts = {k: x for k, x in pipe.components.items() if x is not None or k in optional}
        more = {"requires_safety_checker": False} if optional and run.kind != "pag" else {}
        pipe = getattr(diffusers, name)(**parts, **more)
    if run.kind == "pag":
        pipe.set_pag_applied_layers(["mid"])
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(getattr(torch, run.dtype))


@cache
def model_of(family: str, scheduler: str, fields: tuple[tuple[str, Any], ...]) -> Any:
    """Return ldmref's model of a family; a scheduler that it cannot read is that of the family."""
    pipe = make(family)
    of_flow = hasattr(pipe, "transformer")
    if (scheduler and not of_flow) or (fields and fields[0][0] == "use_dynamic_shifting"):
        made = getattr(diffusers, scheduler)
        pipe.scheduler = made.from_config(pipe.scheduler.config, **dict(fields))
    with tempfile.TemporaryDirectory() as folder:
        pipe.save_pretrained(folder)
        return ldmref.load(folder, backend="numpy", dtype="float32")


def arguments_of(pipe: Any, run: HostRun) -> dict[str, Any]:
    """Return the arguments of the pipeline's call."""
    found = {"prompt": "a red cat", "output_type": "np", "num_inference_steps": STEPS}
    found |= {"height": 16, "width": 16, **run.arguments}
    if "sigmas" in found:
        del found["num_inference_steps"]
    if run.kind == "img2img" and run.family in ("sd1", "sdxl"):
        del found["height"], found["width"]
    if run.kind.endswith(EMBEDS):
        states = hidden_states(pipe, found["prompt"])
        if run.kind != f"negative {EMBEDS}":
            del found["prompt"]
        if run.kind == f"prompt {EMBEDS}":
            found["negative_prompt"] = "dog"
        if run.kind != EMBEDS:
            negative = run.kind.startswith("negative")
            states = {k: x for k, x in states.items() if k.startswith("negative") == negative}
        found |= states
    return found | {"generator": torch.Generator().manual_seed(1)}


@torch.no_grad()
def hidden_states(pipe: Any, prompt: str) -> dict[str, torch.Tensor]:
    """Return hidden states in place of a prompt, as each pipeline takes them."""
    names = ("prompt_embeds", "negative_prompt_embeds")
    if isinstance(pipe, diffusers.FluxPipeline):
        states, pooled, _ = pipe.encode_prompt(prompt, None)
        return {"prompt_embeds": states, "pooled_prompt_embeds": pooled}
    if isinstance(pipe, diffusers.StableDiffusionPipeline):
        return dict(zip(names, pipe.encode_prompt(prompt, "cpu", 1, True, "dog"), strict=True))
    names += ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    more = {"prompt_2": None, "prompt_3": None} if hasattr(pipe, "transformer") else {}
    found = pipe.encode_prompt(prompt, **more, negative_prompt="dog", device="cpu")
    return dict(zip(names, found, strict=True))


def judge(run: HostRun, folder: Path, before: Any = None, within: Any = None) -> list[Any]:
    """Record a run, and return the rows of the host.

    Args:
        run: The run.
        folder: For the trace.
        before, within: Functions that change the pipeline before it is observed, and while it is.
    """
    pipe = prepare(run)
    arguments = arguments_of(pipe, run)
    if before is not None:
        before(pipe)
    with record_pipeline(pipe, folder, selection=Selection(layers=("",))):
        if within is not None:
            within(pipe)
        pipe(**arguments)
    model = model_of(run.family, run.scheduler, tuple(run.fields.items()))
    return judge_host(read_trace(folder), model, run.dtype, [])


def is_followed(run: HostRun, folder: Path) -> bool:
    """Return whether a recorded run is followed from its request to its images."""
    model = model_of(run.family, run.scheduler, tuple(run.fields.items()))
    port = without_own_arguments(read_trace(folder))
    context = PipelineContext(port, model, run.dtype, [])
    return not isinstance(follow_diffusers(context), str)
