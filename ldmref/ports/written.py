"""What diffusers and transformers read of ours: configurations, and an autoencoder's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.io.atomic import atomic_folder
from ldmref.io.diffusers.scheduler import FIELDS, PREDICTIONS, SAMPLERS, SCHEDULES
from ldmref.io.tensors.writer import source, write_to
from ldmref.models.config import AutoencoderConfig, TextConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.params import Params, flatten
from ldmref.models.taesd import TinyConfig
from ldmref.ports.autoencoders import describe_kl_or_vq
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.text_encoders import describe_clip
from ldmref.samplers.config import SchedulerConfig

UNET_FIELDS = """
    in_channels out_channels sample_size block_out_channels layers_per_block norm_num_groups
    norm_eps transformer_layers_per_block cross_attention_dim use_linear_projection
""".split()
SIZES = ("addition_time_embed_dim", "projection_class_embeddings_input_dim")  # of SDXL
SCHEDULERS = {sampler: kind for kind, sampler in reversed(SAMPLERS.items())}


def write_unet_config(config: UNetConfig) -> dict[str, Any]:
    """Return the configuration of a `UNet2DConditionModel`.

    >>> from ldmref.io.diffusers.config import convert_unet_config
    >>> convert_unet_config(write_unet_config(UNetConfig())) == UNetConfig()
    True
    """
    down = ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in config.attention_levels]
    fields = {name: getattr(config, name) for name in UNET_FIELDS}
    added = config.addition_embed_type
    return {
        "_class_name": "UNet2DConditionModel",
        **fields,
        "down_block_types": down,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(down)],
        "attention_head_dim": config.num_heads,  # diffusers' name for the number of heads
        "addition_embed_type": added or None,
        **{name: getattr(config, name) if added else None for name in SIZES},
        "time_cond_proj_dim": None,
    }


def write_scheduler_config(config: SchedulerConfig, sampler: str) -> dict[str, Any]:
    """Return the configuration of diffusers' scheduler for a sampler, on the grid of a model.

    Args:
        config: The forward process and the grid.
        sampler: A sampler that a class of diffusers has alone, a name in `SCHEDULERS`.

    >>> from ldmref.io.diffusers.scheduler import convert_scheduler_config
    >>> pndm = convert_scheduler_config({"_class_name": "PNDMScheduler", "skip_prk_steps": True})
    >>> convert_scheduler_config(write_scheduler_config(pndm, "pndm")) == pndm
    True
    """
    kind = SCHEDULERS[sampler]
    values = {
        "num_train_timesteps": config.num_train_timesteps,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": {ours: name for name, ours in SCHEDULES.items()}[config.beta_schedule],
        "trained_betas": list(config.trained_betas) or None,
        "prediction_type": {x: name for name, x in PREDICTIONS.items()}[config.prediction_type],
        "steps_offset": config.steps_offset,
        "timestep_spacing": config.timestep_spacing,
        "rescale_betas_zero_snr": config.rescale_betas_zero_snr,
        "clip_sample": config.clip_sample_range > 0,
        "clip_sample_range": config.clip_sample_range or 1.0,
        "thresholding": config.thresholding_ratio > 0,
        "dynamic_thresholding_ratio": config.thresholding_ratio or 0.995,
        "sample_max_value": config.sample_max_value,
        "set_alpha_to_one": config.final_alpha == "zero",
        "final_sigmas_type": config.final_sigma,
        "skip_prk_steps": True,
    }
    known = FIELDS[kind]
    return {"_class_name": kind, **{name: x for name, x in values.items() if name in known}}


def describe_config(described: LibraryObject) -> dict[str, Any]:
    """Return the content of the configuration file of a network or scheduler.

    >>> describe_config(LibraryObject("diffusers:AutoencoderKL", {"latent_channels": 16}))
    {'_class_name': 'AutoencoderKL', 'latent_channels': 16}
    """
    if "model_type" in described.stored:  # of transformers
        return {"architectures": [described.kind], **described.stored, **described.arguments}
    return {"_class_name": described.kind, **described.stored, **described.arguments}


def write_text_config(config: TextConfig) -> dict[str, Any]:
    """Return the configuration of a `CLIPTextModel`, or of one with a projection.

    >>> from ldmref.io.diffusers.config import convert_text_config
    >>> convert_text_config(write_text_config(TextConfig())) == TextConfig()
    True
    """
    return describe_config(describe_clip(config))


def write_tiny_config(config: TinyConfig) -> dict[str, Any]:
    """Return the configuration of an `AutoencoderTiny`.

    >>> from ldmref.io.adapters.autoencoder import convert_tiny_config
    >>> convert_tiny_config(write_tiny_config(TinyConfig(latent_channels=16))).latent_channels
    16
    """
    levels = len(config.num_encoder_blocks)
    return {
        "_class_name": "AutoencoderTiny",
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "latent_channels": config.latent_channels,
        "encoder_block_out_channels": [config.encoder_channels] * levels,
        "decoder_block_out_channels": [config.decoder_channels] * levels,
        "block_out_channels": [config.decoder_channels] * levels,
        "num_encoder_blocks": config.num_encoder_blocks,
        "num_decoder_blocks": config.num_decoder_blocks,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    }


def save_autoencoder(folder: Path, config: AutoencoderConfig, params: Params) -> None:
    """Write the folder that `read_vae` and diffusers read; it appears complete or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    tensors = {k: source(np.asarray(v, np.float32, order="C")) for k, v in flatten(params).items()}
    with atomic_folder(folder) as temporary:
        with open(temporary / "diffusion_pytorch_model.safetensors", "wb") as file:
            write_to(file, tensors)
        text = json.dumps(to_diffusers_config(config), indent=2) + "\n"
        (temporary / "config.json").write_text(text, "utf-8")


def to_diffusers_config(config: AutoencoderConfig) -> dict[str, Any]:
    """Return diffusers' configuration, the inverse of `convert_autoencoder_config`."""
    made = describe_kl_or_vq(config)
    return {"_class_name": made.path.partition(":")[2], **made.settings}
