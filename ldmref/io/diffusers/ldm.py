"""diffusers folders of the latent diffusion paper's models.

Their pipelines are LDMPipeline, LDMSuperResolutionPipeline and LDMTextToImagePipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldmref.io.diffusers import config as diffusers_config
from ldmref.io.diffusers.checks import (
    read_json,
    require_lists,
    require_plain,
    unsupported,
)
from ldmref.io.diffusers.scheduler import convert_scheduler_config
from ldmref.models.config import Defaults, ModelConfig, TextConfig
from ldmref.models.denoiser_config import UNetConfig

LDM_PIPELINES = ("LDMPipeline", "LDMSuperResolutionPipeline", "LDMTextToImagePipeline")
FOLDERS = {"vae": "vqvae", "text_encoder": "bert"}  # where they differ from our names

UNET2D_PLAIN: dict[str, tuple[Any, ...]] = diffusers_config.UNET_PLAIN | {
    "mid_block_type": (None, "UNetMidBlock2D"),
    "add_attention": (True,),
    "downsample_type": ("conv", "resnet"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}
BERT_PLAIN = {"activation_function": ("gelu",), "scale_embedding": (False,)}
# Defaults of the classes, for fields that a configuration omits.
UNET2D_DEFAULTS: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "block_out_channels": (224, 448, 672, 896),
    "down_block_types": ("DownBlock2D",) + ("AttnDownBlock2D",) * 3,
    "up_block_types": ("AttnUpBlock2D",) * 3 + ("UpBlock2D",), "downsample_type": "conv",
    "upsample_type": "conv", "attention_head_dim": 8, "norm_num_groups": 32,
    "attn_norm_num_groups": None, "norm_eps": 1e-5, "layers_per_block": 2,
    "resnet_time_scale_shift": "default",
}  # fmt: skip
BERT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "d_model": 1280,
    "encoder_ffn_dim": 5120,
    "encoder_layers": 32,
    "encoder_attention_heads": 8,
    "max_position_embeddings": 77,
    "head_dim": 64,
}
BERT_FIELDS = {
    "d_model": "hidden_size",
    "encoder_ffn_dim": "intermediate_size",
    "encoder_layers": "num_hidden_layers",
    "encoder_attention_heads": "num_attention_heads",
}


def read_ldm_config(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder.

    Args:
        folder: The folder of model_index.json.
        index: The contents of model_index.json, whose class is one of `LDM_PIPELINES`.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    kind = index["_class_name"]
    vae = diffusers_config.convert_own_autoencoder(
        read_json(folder / FOLDERS["vae"] / "config.json")
    )
    unet_data = read_json(folder / "unet" / "config.json")
    text = TextConfig(model_type="none", num_hidden_layers=1)
    if kind == "LDMTextToImagePipeline":
        unet = diffusers_config.convert_unet_config(unet_data)
        text = convert_ldmbert_config(read_json(folder / FOLDERS["text_encoder"] / "config.json"))
    else:
        unet = convert_unet2d_config(unet_data)
    superres = kind == "LDMSuperResolutionPipeline"
    if superres:  # the pipeline does not scale latents
        vae = replace(vae, scaling_factor=1.0)
    height, width = (side * vae.factor for side in diffusers_config.get_trained_size(unet_data))
    return ModelConfig(
        denoiser=unet,
        vae=vae,
        text_encoder=text,
        concat="low_resolution" if superres else "",
        scheduler=convert_scheduler_config(
            read_json(folder / "scheduler" / "scheduler_config.json")
        ),
        defaults=Defaults(steps=100 if superres else 50, cfg_scale=1.0, width=width, height=height),
    )


def convert_unet2d_config(data: Mapping[str, Any]) -> UNetConfig:
    """Convert the configuration of a `UNet2DModel`.

    Its `attention_head_dim` is the width of a head.
    """
    data = UNET2D_DEFAULTS | dict(data)
    where = "the U-Net's configuration"
    require_plain(data, UNET2D_PLAIN, where)
    require_lists(data, UNET2D_DEFAULTS, where)
    if data["downsample_type"] != data["upsample_type"]:
        raise unsupported(f"{where} has a downsample_type that differs from its upsample_type")
    if data["attn_norm_num_groups"] not in (None, data["norm_num_groups"]):
        raise unsupported("the U-Net's attn_norm_num_groups differs from its norm_num_groups")
    resnet = data["downsample_type"] == "resnet"
    head_dim = data["attention_head_dim"]
    down = data["down_block_types"]
    up = data["up_block_types"]
    down = _same_resampling(down, "DownBlock2D", "ResnetDownsampleBlock2D", resnet)
    up = _same_resampling(up, "UpBlock2D", "ResnetUpsampleBlock2D", resnet)
    attention = diffusers_config.find_attention_levels(
        down, up, "DownBlock2D", "AttnDownBlock2D", where
    )
    channels = data["block_out_channels"]
    return UNetConfig(
        **diffusers_config.convert_unet_fields(data),
        attention_levels=attention,
        attention="self",
        num_heads=tuple(1 if head_dim is None else c // head_dim or 1 for c in channels),
        transformer_layers_per_block=(1,) * len(channels),
        cross_attention_dim=0,
        resnet_time_scale_shift=data["resnet_time_scale_shift"],
        resnet_updown=resnet,
    )


def _same_resampling(kinds: Sequence[str], conv: str, resnet: str, by_resnet: bool) -> list[str]:
    """Return the types of blocks as if they resampled by convolutions, if all resample equally.

    Blocks without attention must resample like the others, except for the last, which does not
    resample.
    """
    swapped = {conv: resnet, resnet: conv} if by_resnet else {}
    types = [swapped.get(kind, kind) for kind in kinds]
    return [*types[:-1], conv] if types[-1:] == [resnet] else types


def convert_ldmbert_config(data: Mapping[str, Any]) -> TextConfig:
    """Convert the configuration of an `LDMBertModel`."""
    data = BERT_DEFAULTS | dict(data)
    require_plain(data, BERT_PLAIN, "the text encoder's configuration")
    fields = {BERT_FIELDS.get(name, name): data[name] for name in BERT_DEFAULTS}
    return TextConfig(model_type="ldmbert", hidden_act="gelu", **fields)
