"""Right, completely recorded runs of diffusers' pipelines of every family that has one.

A run is entered by being declared in `RUNS`; `test_exit_codes.py` judges each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import flux2_pipelines
import flux3_pipelines
import krea2_pipelines
import qwen_image_21_pipelines
import torch
import z_image_pipelines
from host_runs import MASK, PHOTO, RIGHT, arguments_of, make, prepare
from qwen3_networks import write_vocabulary

PROMPT = "a red cat"
SIZE = {"width": 16, "height": 16}
WIDE = {"width": 24, "height": 16}
STEPS = 2
OF_HOST = (  # runs of `host_runs.RIGHT`
    "negative", "img2img", "inpaint", "inpainting model", "rescaled", "a long prompt",
    "sdxl", "sdxl img2img", "sdxl inpaint", "sdxl, sizes",
    "sd3", "sd3 img2img", "sd3 without T5", "sd3, skipped layers",
    "dev", "dev img2img", "dev inpaint", "dev, true guidance", "schnell, 256 tokens",
    "fill", "control", "control img2img",
)  # fmt: skip
LANGUAGE = ("norm", "lm_head")  # what nothing reads of a language model


class CompleteRun(NamedTuple):
    """A run.

    Attributes:
        name: Its name.
        make: Returns the pipeline; it may write into a folder.
        call: Runs it.
        save: Writes its folder.
        unread: The parts of its text encoder of which nothing is read.
    """

    name: str
    make: Callable[[Path], Any]
    call: Callable[[Any], Any]
    save: Callable[[Any, Path], Any] = lambda pipe, folder: pipe.save_pretrained(folder)
    unread: tuple[str, ...] = ()


def call(pipe: Any, steps: int = STEPS, **options: Any) -> Any:
    """Run a pipeline with a seed."""
    generator = torch.Generator().manual_seed(5)
    return pipe(prompt=PROMPT, num_inference_steps=steps, generator=generator, **options)


def run_of_host(name: str) -> CompleteRun:
    """Return a run of `host_runs` that is recorded with all layers."""
    [run] = [run for run in RIGHT if run.name == name]
    of_two = ("text_model.encoder.layers.2", "text_model.final_layer_norm")
    return CompleteRun(
        name,
        lambda folder: prepare(run),
        lambda pipe: pipe(**arguments_of(pipe, run)),
        unread=of_two if run.family == "sdxl" else (),
    )


def convert(kind: str, made: Callable[[Path], Any], folder: Path) -> Any:
    """Return another pipeline with the networks of one."""
    parts = {name: part for name, part in made(folder).components.items() if part is not None}
    found = getattr(diffusers, kind)(**parts)
    found.set_progress_bar_config(disable=True)
    return found


def of_z_image(folder: Path) -> Any:
    return z_image_pipelines.make_pipeline(write_vocabulary(folder / "vocabulary"))


def of_flux2(folder: Path, **options: Any) -> Any:
    return flux2_pipelines.make_pipeline(write_vocabulary(folder / "vocabulary"), **options)


def of_flux3(folder: Path, flow_map: bool = False) -> Any:
    return flux3_pipelines.make_pipeline(write_vocabulary(folder / "vocabulary"), flow_map)


def call_flux3(pipe: Any, scale: float | None = None, **options: Any) -> Any:
    options = {"num_inference_steps": STEPS, **SIZE, **options}
    return flux3_pipelines.run(pipe, PROMPT, 5, scale, **options)


LAYERS = {"text_encoder_out_layers": flux2_pipelines.LAYERS}
LARGE = PHOTO.resize((64, 64))  # references of FLUX.2 have at least 64 pixels
EDIT = {"image": PHOTO, "strength": 0.7, **SIZE}
MASKED_EDIT = {**EDIT, "mask_image": MASK}
Z_IMAGE = ("layers.2", *LANGUAGE)
FLUX2 = ("layers.3", *LANGUAGE)
Z = partial(CompleteRun, unread=Z_IMAGE)
F2 = partial(CompleteRun, unread=FLUX2)
F3 = partial(CompleteRun, save=flux3_pipelines.save_pipeline, unread=Z_IMAGE)
K2 = partial(CompleteRun, unread=("layers.3", "norm"))
QWEN = partial(CompleteRun, unread=LANGUAGE)
SQUARE = {"width": 32, "height": 32}
GUIDED = {"negative_prompt": "dog", "true_cfg_scale": 2.0, "width": 64, "height": 32}
TURBO = partial(qwen_image_21_pipelines.make_pipeline, qwen_image_21_pipelines.TURBO_TIMES)
NEW = (
    CompleteRun("sd2", lambda folder: make("sd2"), lambda pipe: call(pipe, **SIZE)),
    CompleteRun("sd3.5", lambda folder: make("sd35"), lambda pipe: call(pipe, **SIZE)),
    Z("z-image", of_z_image, lambda pipe: call(pipe, guidance_scale=2.0, **WIDE)),
    Z("z-image, not guided", of_z_image, lambda pipe: call(pipe, guidance_scale=0.0, **WIDE)),
    Z(
        "z-image img2img",
        partial(convert, "ZImageImg2ImgPipeline", of_z_image),
        lambda pipe: call(pipe, guidance_scale=0.0, **EDIT),
    ),
    Z(
        "z-image inpaint",
        partial(convert, "ZImageInpaintPipeline", of_z_image),
        lambda pipe: call(pipe, guidance_scale=0.0, **MASKED_EDIT),
    ),
    F2("klein", of_flux2, lambda pipe: call(pipe, guidance_scale=4.0, **LAYERS, **WIDE)),
    F2(
        "klein, distilled",
        partial(of_flux2, is_distilled=True),
        lambda pipe: call(pipe, **LAYERS, **WIDE),
    ),
    F2("klein, a reference", of_flux2, lambda pipe: call(pipe, image=LARGE, **LAYERS, **WIDE)),
    F2(
        "klein inpaint",
        partial(of_flux2, kind=diffusers.Flux2KleinInpaintPipeline),
        lambda pipe: call(pipe, 3, **LAYERS, **MASKED_EDIT),
    ),
    F3("flux3", of_flux3, lambda pipe: call_flux3(pipe, 4.0)),
    F3("flux3, a reference", of_flux3, lambda pipe: call_flux3(pipe, 1.0, image=[PHOTO])),
    F3("flux3, distilled", partial(of_flux3, flow_map=True), call_flux3),
    K2(
        "krea 2",
        krea2_pipelines.make_pipeline,
        lambda pipe: call(pipe, guidance_scale=2.0, **WIDE),
    ),
    K2(
        "krea 2 turbo",
        partial(krea2_pipelines.make_pipeline, distilled=True),
        lambda pipe: call(pipe, guidance_scale=0.0, **WIDE),
    ),
    QWEN(
        "qwen-image 2.1",
        lambda folder: qwen_image_21_pipelines.make_pipeline(),
        lambda pipe: call(pipe, 3, **GUIDED),
    ),
    QWEN(
        "qwen-image 2.1, no cache",
        lambda folder: qwen_image_21_pipelines.make_pipeline(),
        lambda pipe: call(pipe, use_kv_cache=False, **GUIDED),
    ),
    QWEN("qwen-image 2.1 turbo", lambda folder: TURBO(), lambda pipe: call(pipe, **SQUARE)),
)
RUNS = {run.name: run for run in (*map(run_of_host, OF_HOST), *NEW)}
