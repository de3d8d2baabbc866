"""The files with which diffusers and optimum open an exported folder as a pipeline.

FOLDER/model_index.json                     the class of each part
FOLDER/scheduler/scheduler_config.json      the forward process, for DDIM
FOLDER/tokenizer/tokenizer_config.json      next to tokenizer.json
FOLDER/unet/config.json                     and of each other network: its sizes, for optimum

diffusers has such a pipeline for models with one text encoder: Stable Diffusion 1 and 2.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ldmref.models.autoencoder_config import AutoencoderConfig
from ldmref.models.model import LatentDiffusion
from ldmref.models.text_kind import kind_of
from ldmref.ports.written import (
    to_diffusers_config,
    write_text_config,
    write_tiny_config,
    write_unet_config,
)
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.samplers import SchedulerConfig

RUNTIME = ["diffusers", "OnnxRuntimeModel"]
PARTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
KINDS = ("start", "end", "pad")  # of special tokens
BETA_SCHEDULES = {"cosine": "squaredcos_cap_v2"}  # other names in diffusers
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


def is_pipeline(model: LatentDiffusion) -> bool:
    """Return whether diffusers has an ONNX pipeline for a model: CLIP alone, a KL or VQ."""
    config = model.config
    encoders = config.text_encoders
    if type(config.vae) is not AutoencoderConfig:
        return False
    return len(encoders) == 1 and kind_of(encoders[0]).pooled is not None


def write_pipeline(model: LatentDiffusion, folder: Path) -> None:
    """Write what diffusers needs beside the networks and tokenizer.json."""
    index: dict[str, Any] = {
        "_class_name": "OnnxStableDiffusionPipeline",
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    }
    index |= dict.fromkeys(PARTS, RUNTIME)
    _write(folder / "model_index.json", index)
    _write(folder / "scheduler" / "scheduler_config.json", describe_ddim(model.config.scheduler))
    _write(folder / "tokenizer" / "tokenizer_config.json", _describe_tokenizer(model.tokenizer))
    for part, config in describe_networks(model).items():
        _write(folder / part / "config.json", config)


def describe_networks(model: LatentDiffusion) -> dict[str, dict[str, Any]]:
    """Return the configuration of each network of `PARTS`, in the words of diffusers."""
    config = model.config
    tiny = model.tiny_autoencoder
    vae = to_diffusers_config(config.kl_or_vq) if tiny is None else write_tiny_config(tiny.config)
    return {
        "text_encoder": write_text_config(config.text_encoder),
        "unet": write_unet_config(config.unet),
        "vae_decoder": vae,
        "vae_encoder": vae,
    }


def describe_ddim(config: SchedulerConfig) -> dict[str, Any]:
    """Return the configuration of diffusers' DDIM for a forward process."""
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": config.num_train_timesteps,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": BETA_SCHEDULES.get(config.beta_schedule, config.beta_schedule),
        "trained_betas": list(config.trained_betas) or None,
        "prediction_type": PREDICTIONS[config.prediction_type],
        "rescale_betas_zero_snr": config.rescale_betas_zero_snr,
        "timestep_spacing": "trailing" if config.rescale_betas_zero_snr else "leading",
        "steps_offset": 1,
        "set_alpha_to_one": config.rescale_betas_zero_snr,
        "clip_sample": False,
    }


def _describe_tokenizer(tokenizer: PromptTokenizer) -> dict[str, Any]:
    """Return the names of CLIP's special tokens, and the length."""
    names = {kind: tokenizer.tokenizer.id_to_token(getattr(tokenizer, kind)) for kind in KINDS}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": tokenizer.length,
        "bos_token": names["start"],
        "eos_token": names["end"],
        "unk_token": names["end"],
        "pad_token": names["pad"],
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
