"""The files of Krea 2: folders of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldmref.families.krea2.config import Krea2Config
from ldmref.families.krea2.presets import SCALE, STEPS, as_turbo
from ldmref.families.krea2.text import LAYERS, as_text_encoder
from ldmref.families.qwen3.files import read_model, read_scheduler
from ldmref.io.diffusers.checks import require_plain
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.models.config import Defaults, ModelConfig

PIPELINES = ("Krea2Pipeline",)
PACKED = 4  # cells of a token, which diffusers counts as channels


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers, Raw's or Turbo's.

    Args:
        folder: The folder.
        index: The contents of its model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    require_plain(index, {"patch_size": (2,)}, "model_index.json")
    layers = tuple(index.get("text_encoder_select_layers") or LAYERS)
    scheduler = read_scheduler(folder, index)
    config = read_model(
        folder,
        convert_transformer_config,
        lambda text: replace(as_text_encoder(text), hidden_layers=layers),
        scheduler,
        Defaults(STEPS, SCALE),
    )
    return as_turbo(config) if index.get("is_distilled") else config


def convert_transformer_config(data: Mapping[str, Any]) -> Krea2Config:
    """Convert the configuration of a `Krea2Transformer2DModel`; see `read_denoiser`."""
    return read_denoiser(Krea2Config(), data, packed=PACKED)
