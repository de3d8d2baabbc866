"""What a request asks for in addition, or a model in particular: checked only where it is so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.models.text_kind import kind_of
from ldmref.modes import validation
from ldmref.modes.embeddings import check_lengths
from ldmref.modes.guidance_parameter import is_asked
from ldmref.modes.job import Job
from ldmref.modes.validation import MAX_SIDE
from ldmref.prompts.class_labels import check_prompt
from ldmref.samplers import SAMPLERS
from ldmref.samplers.guidance import CODE
from ldmref.samplers.noise import follows_diffusers
from ldmref.samplers.own_spacing import SLACK
from ldmref.samplers.path import PATHS, VE
from ldmref.samplers.schedule import sampling_sigmas

COMMON_MODES = ("txt2img", "img2img", "inpaint")  # of every model that needs no given image
MIN_TILE = 4  # latent cells
MODE_OF = {"low_resolution": "superres", "segmentation": "seg2img"}  # by `ModelConfig.concat`


def check_mode(config: ModelConfig, mode: str) -> None:
    """Refuse a mode that needs another model."""
    needed = MODE_OF.get(config.concat)
    if mode in MODE_OF.values() and mode != needed:
        kind = next(concat for concat, its_mode in MODE_OF.items() if its_mode == mode)
        raise UsageError(
            f"{mode} needs a model with concat {kind!r}, which {config.name!r} is not",
            code="E-MODE",
            hint=f"use {needed}" if needed else "use txt2img, img2img or inpaint",
        )
    kind = kind_of(config.text_encoder)
    if mode == "interpolate" and kind.reads == "class" and kind.function is None:
        raise UsageError(
            f"{config.name!r} reads class numbers, between which there is nothing",
            code="E-MODE",
            hint="use txt2img with each class",
        )
    if config.denoiser.is_flow_map and mode == "invert":
        raise UsageError(
            f"{config.name!r} is a flow map, which goes from noise to images alone",
            code="E-MODE",
            hint="use img2img",
        )
    if config.concat == "control" and mode in ("invert", "edit"):
        raise UsageError(
            f"{config.name!r} generates images only with a control image, which {mode} does not "
            "take",
            code="E-MODE",
            hint="use txt2img, img2img or inpaint",
        )
    if mode == "edit" and config.scheduler.prediction_type != "flow":
        raise UsageError(
            f"edit needs a model of flow matching, which {config.name!r} is not",
            code="E-MODE",
            hint="use invert --edit, or img2img",
        )
    if needed and mode != needed:
        raise UsageError(
            f"{config.name!r} generates images only from a given image",
            code="E-MODE",
            hint=f"use {needed}",
        )


def can_generate(config: ModelConfig, mode: str) -> bool:
    """Return whether a model has a mode.

    >>> from ldmref.models import preset
    >>> can_generate(preset("sd15"), "img2img"), can_generate(preset("sd15"), "superres")
    (True, False)
    """
    try:
        check_mode(config, mode)
    except UsageError:
        return False
    return True


def check_flow_map(config: ModelConfig, job: Job) -> None:
    """Refuse what the steps of a flow map cannot do: to be guided, or divided."""
    name = config.name
    if not job.sampler.jumps:
        raise UsageError(
            f"sampler {job.sampler.name!r} is no flow map, and {name!r} predicts whole steps",
            code="E-SAMPLER",
            hint=f"take one of {', '.join(s for s, x in SAMPLERS.items() if x.jumps)}",
        )
    guided = {
        f"cfg_scale={job.cfg_scale:g}": job.cfg_scale != 1.0,
        f"guidance={job.guidance.name}": is_asked(job.guidance),
        "negative_prompt=": any(job.negative_prompts),
        "negative_prompt_embeds=": "negative_prompt_embeds" in (job.embeddings or ()),
    }
    for what, is_asked_for in guided.items():
        if is_asked_for:
            error = UsageError(
                f"guidance is baked into {name!r}, which takes no {what}",
                code=CODE,
                hint="leave it out",
            )
            error.parameter = what.partition("=")[0]
            raise error


def check_chunks(config: ModelConfig) -> None:
    """Refuse prompts in chunks, for a model that reads one."""
    if getattr(config.denoiser, "class_embed_type", ""):
        raise UsageError(
            f"{config.name!r} reads one chunk only: its last token represents the whole prompt",
            code="E-LONG-PROMPTS",
            hint="use long_prompts=truncate",
        )


def check_classes(config: ModelConfig, job: Job) -> None:
    """Refuse prompts that are not classes of the model, or a scale if it has none."""
    text = config.text_encoder
    reads = kind_of(text).reads
    for prompt in dict.fromkeys(job.prompts + job.negative_prompts):
        classes = 0 if reads == "nothing" else text.vocab_size
        check_prompt(prompt, classes, text.class_names)
    if reads == "nothing" and job.cfg_scale != 1.0:
        raise UsageError(
            f"{config.name!r} takes no prompt, so there is nothing to guide",
            code="E-CFG-SCALE",
            hint="leave cfg_scale out, or give 1",
        )


def check_sigmas(config: ModelConfig, job: Job) -> None:
    """Refuse noise levels that the model does not know, or that the schedule cannot have."""
    assert job.sigmas is not None
    path = config.scheduler.path if job.noise_path is None else PATHS[job.noise_path]
    highest = path.level(float(sampling_sigmas(config.scheduler)[-1]))
    if job.sigmas[0] > highest * (1.0 + SLACK):
        levels = "14.6, 7.1, 2.3, 0" if path is VE else "0.94, 0.88, 0.7, 0"
        raise UsageError(
            f"sigmas begin at {job.sigmas[0]:g}, the model knows noise up to {highest:g}",
            code="E-SIGMAS",
            hint=f"sigmas are noise levels, such as {levels}, not timesteps",
        )
    job.make_schedule(config)


def check_embeddings(config: ModelConfig, job: Job) -> None:
    """Refuse embeddings that are not as long as the other prompts that the guidance needs."""
    check_lengths(config, job)
    if not job.embeddings or "empty" not in job.guidance.needs(1.0, job.cfg_scale):
        return
    length = config.text_encoder.max_position_embeddings
    for name, array in job.embeddings.items():
        if array.ndim == 3 and array.shape[1] != length:
            raise UsageError(
                f"{name} has {array.shape[1]} tokens, and guidance {job.guidance.name!r} also "
                f"needs the empty prompt, which has {length}",
                code=CODE,
            )


def check_eta(config: ModelConfig, job: Job) -> None:
    """Refuse a strength of fresh noise if the sampler has none."""
    if job.sampler.eta is None:
        raise UsageError(
            f"sampler {job.sampler.name!r} has no eta", code="E-ETA", hint="use ddim or euler_a"
        )


def check_strength(config: ModelConfig, job: Job) -> None:
    """Refuse a strength that leaves no step."""
    if job.strength and job.first_step == job.steps:
        raise UsageError(
            f"strength {job.strength} of {job.steps} steps is less than one step",
            code="E-STRENGTH",
            hint=f"give at least {math.ceil(1000 / job.steps) / 1000} (or 0), or more steps",
        )


def check_resample(config: ModelConfig, job: Job) -> None:
    """Refuse jumps of RePaint that are longer than the run."""
    assert job.resample is not None
    validation.check_integer("resample jump length", job.resample[0], 1, job.steps)


def check_tile(config: ModelConfig, job: Job) -> None:
    """Refuse tiles that are too small, or not of whole latent cells."""
    assert job.tile is not None
    f = config.vae.factor
    validation.check_integer("tile", job.tile, MIN_TILE * f, MAX_SIDE)
    if job.tile % f:
        raise UsageError(
            f"tile must be a multiple of {f}, not {job.tile}",
            code="E-TILE",
            hint=f"use {job.tile // f * f}",
        )


def check_latents(config: ModelConfig, job: Job) -> None:
    """Refuse noise of another shape than that of the latents."""
    assert job.latents is not None
    f = config.vae.factor
    shape = (len(job.seeds), config.vae.latent_channels, job.height // f, job.width // f)
    if job.latents.shape != shape:
        raise UsageError(
            f"latents have shape {job.latents.shape}, this request needs {shape}",
            code="E-LATENTS",
            hint="one array for all images: (count, channels, height, width) of the latents",
        )


def check_longest(config: ModelConfig, job: Job) -> None:
    """Refuse the length of a call's longest prompt where no image depends on it."""
    if family_of(config).text.together is None or not follows_diffusers(job.rng):
        raise UsageError(
            f"no image of {config.name!r} with rng {job.rng!r} depends on the longest prompt",
            code="E-LONGEST-PROMPT",
            hint="Qwen-Image 2.1 with rng='torch' takes longest_prompt",
        )


ASKED: Mapping[str, Callable[[ModelConfig, Job], None]] = {
    "embeddings": check_embeddings,
    "eta": check_eta,
    "strength": check_strength,
    "resample": check_resample,
    "tile": check_tile,
    "latents": check_latents,
    "longest_prompt": check_longest,
    "longest_negative_prompt": check_longest,
}
"""The checks of what a job has only if a request or its mode asks for it, by the field."""
