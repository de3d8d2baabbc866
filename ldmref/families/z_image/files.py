"""The files of Z-Image: folders of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldmref.families.qwen3.files import read_model, read_scheduler
from ldmref.families.z_image.config import ZImageConfig
from ldmref.families.z_image.text import as_text_encoder
from ldmref.io.diffusers.checks import require_plain
from ldmref.models.config import Defaults, ModelConfig

PIPELINES = ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline")
STEPS, SCALE = 50, 6.0  # diffusers' defaults; 5 is its number for 6
PLAIN: dict[str, tuple[Any, ...]] = {
    "all_patch_size": ([2],),
    "all_f_patch_size": ([1],),
    "qk_norm": (True,),
    "siglip_feat_dim": (None,),
}
DEFAULTS: dict[str, Any] = {  # of diffusers' class, for fields that a file omits
    "in_channels": 16, "dim": 3840, "n_layers": 30, "n_refiner_layers": 2, "n_heads": 30,
    "cap_feat_dim": 2560, "norm_eps": 1e-5, "rope_theta": 256.0, "t_scale": 1000.0,
    "axes_dims": (32, 48, 48),
}  # fmt: skip


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
    """Convert the configuration of a `ZImageTransformer2DModel`.

    Raises:
        CorruptModelError: It asks for something that is not supported.
    """
    fields = {name: data.get(name, default) for name, default in DEFAULTS.items()}
    heads = {"n_kv_heads": (fields["n_heads"],)}
    require_plain(data, PLAIN | heads, "the transformer's configuration")
    fields["axes_dims"] = tuple(fields["axes_dims"])
    return ZImageConfig(out_channels=fields["in_channels"], **fields)
