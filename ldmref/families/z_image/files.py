"""The files of Z-Image: folders of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldmref.families.qwen3.files import read_model, read_scheduler
from ldmref.families.z_image.config import ZImageConfig
from ldmref.families.z_image.text import as_text_encoder
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.models.config import Defaults, ModelConfig

PIPELINES = ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline")
STEPS, SCALE = 50, 6.0  # diffusers' defaults; 5 is its number for 6
PLAIN: dict[str, tuple[Any, ...]] = {
    "all_patch_size": ([2],),
    "all_f_patch_size": ([1],),
    "qk_norm": (True,),
    "siglip_feat_dim": (None,),
}


def read_folder(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of diffusers.

    Args:
        folder: The folder.
        index: The contents of its model_index.json.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    scheduler = read_scheduler(folder, index)
    return read_model(
        folder, convert_transformer_config, as_text_encoder, scheduler, Defaults(STEPS, SCALE)
    )


def convert_transformer_config(data: Mapping[str, Any]) -> ZImageConfig:
    """Convert the configuration of a `ZImageTransformer2DModel`; see `read_denoiser`."""
    omitted = ZImageConfig()
    heads = {"n_kv_heads": (data.get("n_heads", omitted.n_heads),)}
    return read_denoiser(omitted, data, PLAIN | heads)
