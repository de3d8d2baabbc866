"""The files of Z-Image: folders of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldmref.io.diffusers import (
    convert_autoencoder_config,
    convert_scheduler_config,
    get_class,
    read_json,
    require_plain,
)
from ldmref.models import Defaults, ModelConfig
from ldmref_zimage.config import ZImageConfig
from ldmref_zimage.qwen3 import Qwen3Config

PIPELINES = ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline")
LENGTH = 512  # tokens of a caption, with those of the template, in diffusers' pipelines
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
TEXT_PLAIN: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "use_sliding_window": (False,),
}
TEXT_DEFAULTS: dict[str, Any] = {  # of transformers' class
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "head_dim": 128, "rms_norm_eps": 1e-6,
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
    transformer = convert_transformer_config(read_json(folder / "transformer" / "config.json"))
    vae = convert_autoencoder_config(read_json(folder / "vae" / "config.json"))
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    side = transformer.sample_size * vae.factor
    return ModelConfig(
        denoiser=transformer,
        vae=vae,
        text_encoder=convert_text_config(read_json(folder / "text_encoder" / "config.json")),
        scheduler=convert_scheduler_config(scheduler, get_class(index, "scheduler")),
        defaults=Defaults(STEPS, SCALE, width=side, height=side),
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


def convert_text_config(data: Mapping[str, Any], length: int = LENGTH) -> Qwen3Config:
    """Convert the configuration of a Qwen3 model, whose last state but one Z-Image reads.

    Args:
        data: The contents of config.json.
        length: The number of tokens that the pipeline gives it.

    Raises:
        CorruptModelError: It asks for something that is not supported.
    """
    require_plain(data, TEXT_PLAIN, "the text encoder's configuration")
    fields = {name: data.get(name, default) for name, default in TEXT_DEFAULTS.items()}
    rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
    require_plain(rope, {"rope_type": ("default",)}, "the text encoder's rotary positions")
    theta = rope.get("rope_theta", data.get("rope_theta", 10000.0))
    return Qwen3Config(
        layer_norm_eps=float(fields.pop("rms_norm_eps")),
        max_position_embeddings=length,
        rope_theta=float(theta),
        hidden_layers=(-2,),
        final_norm=False,
        **fields,
    )
