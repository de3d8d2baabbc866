"""The files of FLUX.3: folders of diffusers' modular pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldmref.families.flux3.config import Flux3Config, transformer_of
from ldmref.families.flux3.presets import DEFAULTS, SCHEDULER
from ldmref.families.flux3.text import LAYERS, as_text_encoder
from ldmref.families.qwen3.files import read_model
from ldmref.io.diffusers.checks import read_json
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.models.config import ModelConfig

PIPELINES = ("Flux3ModularPipeline", "Flux3DistilledModularPipeline")


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers.

    Diffusers' program, not its files, says the noise levels and which layers of the text encoder
    are read. A text encoder with fewer layers gives as many states as the transformer has room
    for, from the first layer on.

    Args:
        folder: The folder.
        index: The contents of its modular_model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    data = read_json(folder / "transformer" / "config.json")
    defaults = DEFAULTS[bool(data.get("flow_map"))]
    config = read_model(folder, convert_transformer_config, as_text_encoder, SCHEDULER, defaults)
    text = config.text_encoder
    if max(LAYERS) <= text.num_hidden_layers:
        return config
    # a small model, whose layers are an argument of diffusers' pipeline
    count = transformer_of(config).joint_attention_dim // text.hidden_size
    return replace(config, text_encoder=replace(text, hidden_layers=tuple(range(1, count + 1))))


def convert_transformer_config(data: Mapping[str, Any]) -> Flux3Config:
    """Convert the configuration of a `Flux3Transformer2DModel`; see `read_denoiser`."""
    omitted = Flux3Config()
    channels = data.get("in_channels", omitted.in_channels)
    return read_denoiser(omitted, data, {"eps": (1e-6,), "cond_in_channels": (channels,)})
