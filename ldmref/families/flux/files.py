"""The files of Flux.1: folders of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldmref.families.flux.config import FluxConfig, transformer_of
from ldmref.families.flux.text import T5_LENGTH
from ldmref.io.diffusers.checks import read_json, require_class
from ldmref.io.diffusers.config import (
    T5_CLASS,
    convert_autoencoder_config,
    convert_t5_config,
    convert_text_config,
)
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.io.diffusers.folder import get_class
from ldmref.io.diffusers.scheduler import convert_scheduler_config
from ldmref.models.config import Defaults, ModelConfig

FILL = "FluxFillPipeline"
CONTROL = ("FluxControlPipeline", "FluxControlImg2ImgPipeline", "FluxControlInpaintPipeline")
PIPELINES = (
    "FluxPipeline",
    "FluxImg2ImgPipeline",
    "FluxInpaintPipeline",
    FILL,
    *CONTROL,
    "FluxControlNetPipeline",
    "FluxControlNetImg2ImgPipeline",
    "FluxControlNetInpaintPipeline",
)
PACKED = 4  # cells of a token, which diffusers counts as channels
STEPS = {True: 28, False: 4}  # with guidance, [dev]; without, [schnell]
SCALES = {True: 3.5, False: 1.0}
FILL_STEPS, FILL_SCALE = 50, 30.0
CONTROL_STEPS, CONTROL_SCALE = 50, 10.0  # of [Depth]; the scale of [Canny] is 30


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers.

    Args:
        folder: The folder.
        index: The contents of its model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    transformer = convert_transformer_config(read_json(folder / "transformer" / "config.json"))
    vae = convert_autoencoder_config(read_json(folder / "vae" / "config.json"))
    kinds = [get_class(index, name) for name in ("text_encoder", "text_encoder_2")]
    require_class(kinds[0], ["CLIPTextModel"], "the first text encoder is", "E-CONFIG")
    require_class(kinds[1], [T5_CLASS], "the second text encoder is", "E-CONFIG")
    clip = read_json(folder / "text_encoder" / "config.json")
    t5 = read_json(folder / "text_encoder_2" / "config.json")
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    kind = get_class(index, "scheduler")
    side = transformer.sample_size * vae.factor
    guided = transformer.guidance_embeds
    defaults = Defaults(STEPS[guided], SCALES[guided], width=side, height=side)
    fill = index["_class_name"] == FILL
    control = index["_class_name"] in CONTROL
    if fill:
        defaults = replace(defaults, steps=FILL_STEPS, cfg_scale=FILL_SCALE)
    elif control:
        defaults = with_control_defaults(defaults)
    return ModelConfig(
        denoiser=transformer,
        vae=vae,
        text_encoder=convert_text_config(clip, class_name=kinds[0]),
        text_encoder_2=convert_t5_config(t5, T5_LENGTH),
        scheduler=convert_scheduler_config(scheduler, kind, str(index["_class_name"])),
        concat="folded_mask" if fill else "control" if control else "",
        defaults=defaults,
    )


def with_control(config: ModelConfig) -> ModelConfig:
    """Return a model with the configuration of Flux.1 [Depth]: it also reads a control image."""
    latents = config.vae.latent_channels
    return replace(
        config,
        denoiser=replace(transformer_of(config), in_channels=2 * latents),
        concat="control",
        defaults=with_control_defaults(config.defaults),
    )


def with_control_defaults(defaults: Defaults) -> Defaults:
    """Return defaults with the steps and the guidance scale of Flux.1 [Depth]."""
    return replace(defaults, steps=CONTROL_STEPS, cfg_scale=CONTROL_SCALE)


def convert_transformer_config(data: Mapping[str, Any]) -> FluxConfig:
    """Convert the configuration of a `FluxTransformer2DModel`; see `read_denoiser`."""
    return read_denoiser(FluxConfig(), data, {"patch_size": (1,)}, PACKED)
