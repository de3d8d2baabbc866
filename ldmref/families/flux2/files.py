"""The files of FLUX.2 klein: folders of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldmref.families.flux2.config import Flux2Config
from ldmref.families.flux2.presets import DEV, SCALES, STEPS
from ldmref.families.flux2.text import as_text_encoder
from ldmref.families.qwen3.files import read_model, read_scheduler
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.models.config import Defaults, ModelConfig

PIPELINES = ("Flux2KleinPipeline", "Flux2KleinInpaintPipeline")


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers.

    Args:
        folder: The folder.
        index: The contents of its model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    scheduler = replace(read_scheduler(folder, index), shift_rule="empirical")
    distilled = index.get("is_distilled") is True
    defaults = Defaults(STEPS[distilled], SCALES[distilled])
    return read_model(folder, convert_transformer_config, as_text_encoder, scheduler, defaults)


def convert_transformer_config(data: Mapping[str, Any]) -> Flux2Config:
    """Convert the configuration of a `Flux2Transformer2DModel`; see `read_denoiser`."""
    return read_denoiser(DEV, data, {"patch_size": (1,)})
