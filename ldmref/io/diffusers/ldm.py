"""Folders of the latent diffusion paper's models, as diffusers lays them out: LDMPipeline,
LDMSuperResolutionPipeline and LDMTextToImagePipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ldmref.errors import CorruptModelError
from ldmref.io.diffusers.config import (
    UNET_PLAIN,
    autoencoder_config,
    require_plain,
    trained_size,
    unet_config,
)
from ldmref.io.diffusers.scheduler import scheduler_config
from ldmref.models.config import Defaults, ModelConfig, TextConfig, UNetConfig
from ldmref.models.validate import check_config

LDM_PIPELINES = ("LDMPipeline", "LDMSuperResolutionPipeline", "LDMTextToImagePipeline")
FOLDERS = {"vae": "vqvae", "text_encoder": "bert"}  # where they differ from our names

UNET2D_PLAIN: dict[str, tuple[Any, ...]] = UNET_PLAIN | {
    "mid_block_type": (None, "UNetMidBlock2D"), "add_attention": (True,),
    "class_embed_type": (None,), "num_class_embeds": (None,), "downsample_type": ("conv", "resnet"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}  # fmt: skip
BERT_PLAIN: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu",), "scale_embedding": (False,),
}  # fmt: skip
UNET2D_DEFAULTS: dict[str, Any] = {  # of the class, where the configuration leaves a field out
    "in_channels": 3, "out_channels": 3, "block_out_channels": (224, 448, 672, 896),
    "down_block_types": ("DownBlock2D",) + ("AttnDownBlock2D",) * 3,
    "up_block_types": ("AttnUpBlock2D",) * 3 + ("UpBlock2D",),
}  # fmt: skip
BERT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522, "d_model": 1280, "encoder_ffn_dim": 5120, "encoder_layers": 32,
    "encoder_attention_heads": 8, "max_position_embeddings": 77,
}  # fmt: skip


def ldm_config(folder: Path, kind: str, read_json: Callable[[Path], dict[str, Any]]) -> ModelConfig:
    """The configuration of such a folder, without its weights.

    Raises:
        InputError: a file is missing.
        CorruptModelError: a configuration asks for something that is not supported.
    """
    vae_data = read_json(folder / FOLDERS["vae"] / "config.json")
    unet_data = read_json(folder / "unet" / "config.json")
    vae = autoencoder_config(vae_data)
    text = TextConfig(model_type="none", num_hidden_layers=1)
    if kind == "LDMTextToImagePipeline":
        unet = unet_config(unet_data)
        text = ldmbert_config(read_json(folder / FOLDERS["text_encoder"] / "config.json"))
    else:
        unet = unet2d_config(unet_data)
    superres = kind == "LDMSuperResolutionPipeline"
    if superres:  # its pipeline has no scaling factor
        vae = replace(vae, scaling_factor=1.0)
    height, width = (side * vae.factor for side in trained_size(unet_data))
    config = ModelConfig(
        name=folder.name,
        unet=unet,
        vae=vae,
        text_encoder=text,
        concat="low_resolution" if superres else "",
        scheduler=scheduler_config(read_json(folder / "scheduler" / "scheduler_config.json")),
        defaults=Defaults(steps=100 if superres else 50, cfg_scale=1.0, width=width, height=height),
    )
    check_config(config)
    return config


def unet2d_config(data: Mapping[str, Any]) -> UNetConfig:
    """A `UNet2DModel`'s config.json; its `attention_head_dim` is the width of a head."""
    data = UNET2D_DEFAULTS | dict(data)
    require_plain(data, UNET2D_PLAIN, "the U-Net's configuration")
    channels, levels = tuple(data["block_out_channels"]), len(data["block_out_channels"])
    down, up = list(data["down_block_types"]), list(data["up_block_types"])
    kinds = (data.get("downsample_type", "conv"), data.get("upsample_type", "conv"))
    attends = tuple(kind == "AttnDownBlock2D" for kind in down)
    resnet = kinds == ("resnet", "resnet")
    if (
        (kinds != ("conv", "conv") and not resnet)
        or not _are_blocks(down, attends, resnet, "Down", "Downsample")
        or not _are_blocks(up, attends[::-1], resnet, "Up", "Upsample")
    ):
        raise CorruptModelError(
            f"the U-Net's configuration has blocks {down} and {up}, which are not supported",
            code="E-CONFIG",
        )
    width = data.get("attention_head_dim", 8)
    groups = data.get("norm_num_groups", 32)
    if data.get("attn_norm_num_groups") not in (None, groups):
        raise CorruptModelError("the U-Net's attn_norm_num_groups is unlike its norm_num_groups",
                                code="E-CONFIG")  # fmt: skip
    return UNetConfig(
        in_channels=data["in_channels"],
        out_channels=data["out_channels"],
        sample_size=trained_size(data)[0],
        block_out_channels=channels,
        layers_per_block=data.get("layers_per_block", 2),
        attention_levels=attends,
        attention="self",
        num_heads=tuple(1 if width is None else c // width or 1 for c in channels),
        transformer_layers_per_block=(1,) * levels,
        cross_attention_dim=0,
        resnet_time_scale_shift=data.get("resnet_time_scale_shift", "default"),
        resnet_updown=resnet,
        norm_num_groups=groups,
        norm_eps=float(data.get("norm_eps", 1e-5)),
    )


def _are_blocks(
    kinds: list[str], attends: tuple[bool, ...], resnet: bool, way: str, resample: str
) -> bool:
    """Whether blocks without attention resample as the others do; the last does not resample."""
    plain, other = f"{way}Block2D", f"Resnet{resample}Block2D"
    last = len(attends) - 1
    return len(kinds) == len(attends) and all(
        kind == f"Attn{way}Block2D"
        if attend
        else kind in ((plain, other) if i == last else (other if resnet else plain,))
        for i, (kind, attend) in enumerate(zip(kinds, attends, strict=True))
    )


def ldmbert_config(data: Mapping[str, Any]) -> TextConfig:
    """An `LDMBertModel`'s config.json."""
    data = BERT_DEFAULTS | dict(data)
    require_plain(data, BERT_PLAIN, "the text encoder's configuration")
    return TextConfig(
        model_type="ldmbert",
        vocab_size=data["vocab_size"],
        hidden_size=data["d_model"],
        intermediate_size=data["encoder_ffn_dim"],
        num_hidden_layers=data["encoder_layers"],
        num_attention_heads=data["encoder_attention_heads"],
        head_dim=data.get("head_dim", 64),
        max_position_embeddings=data["max_position_embeddings"],
        hidden_act="gelu",
    )
