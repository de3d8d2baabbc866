"""The files of FLUX.3: folders of diffusers' modular pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldmref.families.flux3.config import Flux3Config
from ldmref.families.flux3.presets import DEFAULTS, SCHEDULER
from ldmref.families.flux3.text import as_text_encoder
from ldmref.families.qwen3.files import read_model
from ldmref.io.diffusers.checks import read_json
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.models.config import ModelConfig

PIPELINES = ("Flux3ModularPipeline", "Flux3DistilledModularPipeline")


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers.

    Diffusers' program, not its files, says the noise levels and which layers of the text encoder
    are read; a smaller text encoder says its own, as `text_encoder_out_layers`.

    Args:
        folder: The folder.
        index: The contents of its modular_model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    data = read_json(folder / "transformer" / "config.json")
    defaults = DEFAULTS[bool(data.get("flow_map"))]
    return read_model(folder, convert_transformer_config, as_text_encoder, SCHEDULER, defaults)


def convert_transformer_config(data: Mapping[str, Any]) -> Flux3Config:
    """Convert the configuration of a `Flux3Transformer2DModel`; see `read_denoiser`."""
    omitted = Flux3Config()
    channels = data.get("in_channels", omitted.in_channels)
    return read_denoiser(omitted, data, {"eps": (1e-6,), "cond_in_channels": (channels,)})
