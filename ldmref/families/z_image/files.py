"""The files of Z-Image: folders of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ldmref.families.qwen3.files import read_pipeline
from ldmref.families.z_image.config import ZImageConfig
from ldmref.families.z_image.text import as_text_encoder
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.models.config import Defaults

PIPELINES = ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline")
STEPS, SCALE = 50, 6.0  # diffusers' defaults; 5 is its number for 6
PLAIN: dict[str, tuple[Any, ...]] = {
    "all_patch_size": ([2],),
    "all_f_patch_size": ([1],),
    "qk_norm": (True,),
    "siglip_feat_dim": (None,),
}


def convert_transformer_config(data: Mapping[str, Any]) -> ZImageConfig:
    """Convert the configuration of a `ZImageTransformer2DModel`; see `read_denoiser`."""
    omitted = ZImageConfig()
    heads = {"n_kv_heads": (data.get("n_heads", omitted.n_heads),)}
    return read_denoiser(omitted, data, PLAIN | heads)


read_folder = partial(
    read_pipeline,
    convert_transformer=convert_transformer_config,
    as_text_encoder=as_text_encoder,
    defaults=Defaults(STEPS, SCALE),
)
"""Reads the configuration of a folder of diffusers, of its path and its model_index.json."""
