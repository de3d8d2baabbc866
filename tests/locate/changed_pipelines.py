"""The runs of diffusers' pipelines whose arrays are changed one by one."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from host_runs import EULER, RIGHT, TRUE_CFG, HostRun, arguments_of, model_of, prepare

from ldmref.trace import Selection, Trace, read_trace, record_pipeline

NEGATIVE = {"negative_prompt": "dog"}
SIZES = {
    "original_size": (32, 24),
    "crops_coords_top_left": (2, 4),
    "negative_original_size": (8, 8),
    "negative_crops_coords_top_left": (1, 0),
}
OWN = (
    HostRun("sd1, two images", "sd1", "", {**NEGATIVE, "num_images_per_prompt": 2}),
    HostRun("sd1, Euler", "sd1", "", NEGATIVE, EULER),
    HostRun("sd1, Heun", "sd1", "", NEGATIVE, "HeunDiscreteScheduler"),
    HostRun("sd1, DDIM with eta", "sd1", "", {"eta": 0.7}, "DDIMScheduler", {"clip_sample": False}),
    HostRun("sdxl, all sizes", "sdxl", "", {**NEGATIVE, **SIZES}),
    HostRun("dev, true guidance of two", "dev", "", {**TRUE_CFG, "num_images_per_prompt": 2}),
)
# Kinds of calls whose first arrays are changed in every way, by the names of the runs.
KINDS: dict[str, tuple[str, ...]] = {
    "sd1, two images": ("unet", "guidance", "sampler", "tokens"),
    "sd1, Euler": ("unet", "schedule", "sampler", "scale_input"),
    "sd1, Heun": ("schedule",),
    "sd1, DDIM with eta": ("sampler",),
    "rescaled": ("guidance",),
    "latents given to Euler": ("initial", "inputs"),
    "img2img": ("inputs", "vae", "posterior", "add_noise", "initial"),
    "inpaint": ("inputs", "mask", "add_noise", "vae"),
    "inpainting model": ("inputs", "mask", "unet", "posterior"),
    "perturbed attention": ("guidance", "unet"),
    "hidden states given": ("unet", "inputs"),
    "sdxl, all sizes": ("unet",),
    "sd3, skipped layers": ("guidance", "transformer"),
    "sd3 img2img": ("schedule", "add_noise", "initial"),
    "dev, true guidance of two": ("guidance", "transformer", "sampler"),
    "dev, not square": ("transformer", "vae"),
    "dev inpaint": ("mask",),
    "fill": ("mask", "transformer", "inputs"),
    "control": ("control", "vae", "posterior", "transformer"),
}
RUNS = {run.name: run for run in (*OWN, *RIGHT) if run.name in KINDS}


def record(name: str) -> tuple[Trace, Any]:
    """Return a run of a pipeline, and its model."""
    run = RUNS[name]
    pipe = prepare(run)
    arguments = arguments_of(pipe, run) | {"num_inference_steps": 2 if run.kind == "" else 3}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t"
        with record_pipeline(pipe, path, selection=Selection(layers=("",))):
            pipe(**arguments)
        trace = read_trace(path)
        tensors = {key: np.array(x) for key, x in trace.tensors.items()}
    model = model_of(run.family, run.scheduler, tuple(run.fields.items()))
    return replace(trace, tensors=tensors), model
