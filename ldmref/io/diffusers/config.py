"""The configurations of diffusers and transformers, read field by field.

Every field is either understood or must have the value that means "nothing special"; anything else
is refused, because ignoring it would draw another picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.errors import CorruptModelError
from ldmref.models.config import AutoencoderConfig, TextConfig, UNetConfig

# Fields that change the network when they have another value than these.
UNET_PLAIN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",), "center_input_sample": (False,), "flip_sin_to_cos": (True,),
    "freq_shift": (0,), "mid_block_scale_factor": (1,), "downsample_padding": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",), "only_cross_attention": (False,),
    "dual_cross_attention": (False,), "class_embed_type": (None,), "num_class_embeds": (None,),
    "resnet_time_scale_shift": ("default",), "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1.0, 1), "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,), "time_embedding_act_fn": (None,), "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,), "conv_in_kernel": (3,), "conv_out_kernel": (3,),
    "attention_type": ("default",), "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False), "cross_attention_norm": (None,),
    "encoder_hid_dim": (None,), "encoder_hid_dim_type": (None,), "num_attention_heads": (None,),
    "reverse_transformer_layers_per_block": (None,), "dropout": (0.0, 0),
}  # fmt: skip
VAE_PLAIN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",), "use_quant_conv": (True,), "use_post_quant_conv": (True,),
    "shift_factor": (None, 0, 0.0), "latents_mean": (None,),
    "latents_std": (None,),
}  # fmt: skip
# What the classes of diffusers and transformers take where a configuration leaves a field out.
UNET_DEFAULTS: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, "cross_attention_dim": 1280,
}  # fmt: skip
VAE_DEFAULTS: dict[str, Any] = {
    "latent_channels": 4, "block_out_channels": (64,), "layers_per_block": 1,
}  # fmt: skip
TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "max_position_embeddings": 77,
}  # fmt: skip


def require_plain(data: Mapping[str, Any], plain: Mapping[str, tuple], where: str) -> None:
    """Refuse a configuration in which a field of `plain` has another value than those listed."""
    for name, values in plain.items():
        if name in data and data[name] not in values:
            raise CorruptModelError(
                f"{where} has {name} = {data[name]!r}, which is not supported",
                code="E-CONFIG",
                hint=f"supported: {', '.join(map(str, values))}",
            )


def _per_level(value: Any, levels: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (int(value),) * levels


def unet_config(data: Mapping[str, Any]) -> UNetConfig:
    """A `UNet2DConditionModel`'s config.json.

    Its `attention_head_dim` is the number of heads, whatever the name says.
    """
    data = UNET_DEFAULTS | dict(data)
    require_plain(data, UNET_PLAIN, "the U-Net's configuration")
    channels = tuple(data["block_out_channels"])
    levels = len(channels)
    kinds, up = list(data["down_block_types"]), list(data["up_block_types"])
    known = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
    mirrored = [kind.replace("Down", "Up") for kind in reversed(kinds)]
    if not set(kinds) <= set(known) or up != mirrored:
        raise CorruptModelError(
            f"the U-Net's configuration has blocks {kinds} and {up}, which are not supported",
            code="E-CONFIG",
        )
    layers = data.get("layers_per_block", 2)
    if not isinstance(layers, int):
        raise CorruptModelError("the U-Net's layers_per_block must be one number", code="E-CONFIG")
    return UNetConfig(
        in_channels=data["in_channels"],
        out_channels=data["out_channels"],
        sample_size=trained_size(data)[0],
        block_out_channels=channels,
        layers_per_block=layers,
        attention_levels=tuple(known[kind] for kind in kinds),
        num_heads=_per_level(data.get("attention_head_dim", 8), levels),
        transformer_layers_per_block=_per_level(
            data.get("transformer_layers_per_block", 1), levels
        ),
        cross_attention_dim=data["cross_attention_dim"],
        addition_embed_type=data.get("addition_embed_type") or "",
        addition_time_embed_dim=data.get("addition_time_embed_dim") or 256,
        projection_class_embeddings_input_dim=data.get("projection_class_embeddings_input_dim")
        or 2816,
        use_linear_projection=data.get("use_linear_projection", False),
        norm_num_groups=data.get("norm_num_groups", 32),
        norm_eps=float(data.get("norm_eps", 1e-5)),
    )


def trained_size(data: Mapping[str, Any]) -> tuple[int, int]:
    """Latent height and width of a U-Net's `sample_size`: one number, or two."""
    size = data.get("sample_size") or 64
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return height, width


def autoencoder_config(data: Mapping[str, Any]) -> AutoencoderConfig:
    """An `AutoencoderKL`'s or a `VQModel`'s config.json."""
    plain, codebook = VAE_PLAIN, 0
    vq = data.get("_class_name") == "VQModel"
    defaults: dict[str, Any] = VAE_DEFAULTS | ({"latent_channels": 3} if vq else {})
    data = defaults | dict(data)
    if vq:
        codebook, latents = data.get("num_vq_embeddings", 256), data["latent_channels"]
        plain = VAE_PLAIN | {"norm_type": ("group",), "lookup_from_codebook": (False,)}
        plain |= {"vq_embed_dim": (None, latents)}
    require_plain(data, plain, "the autoencoder's configuration")
    return AutoencoderConfig(
        codebook_size=codebook,
        attention_levels=_autoencoder_attention(data),
        mid_block_add_attention=data.get("mid_block_add_attention", True),
        in_channels=data.get("in_channels", 3),
        out_channels=data.get("out_channels", 3),
        latent_channels=data["latent_channels"],
        block_out_channels=tuple(data["block_out_channels"]),
        layers_per_block=data["layers_per_block"],
        norm_num_groups=data.get("norm_num_groups", 32),
        scaling_factor=float(data.get("scaling_factor", 0.18215)),
    )


def _autoencoder_attention(data: Mapping[str, Any]) -> tuple[bool, ...]:
    """Which levels have attention; () where none has."""
    levels = len(data["block_out_channels"])
    known = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
    down = data.get("down_block_types") or ["DownEncoderBlock2D"] * levels
    up = data.get("up_block_types") or ["UpDecoderBlock2D"] * levels
    mirrored = [k.replace("Down", "Up").replace("Encoder", "Decoder") for k in reversed(down)]
    if not set(down) <= set(known) or list(up) != mirrored:
        raise CorruptModelError(
            f"the autoencoder has blocks {down} and {up}, which are not supported", code="E-CONFIG"
        )
    attends = tuple(known[kind] for kind in down)
    return attends if any(attends) else ()


def text_config(data: Mapping[str, Any], xl: bool = False, class_name: str = "") -> TextConfig:
    """A CLIP text encoder's config.json; SDXL takes its penultimate layer without the last norm.

    `class_name`: that model_index.json names; where it is "", what the file says.
    """
    data = TEXT_DEFAULTS | dict(data)
    named = [class_name] if class_name else data.get("architectures") or []
    projected = "CLIPTextModelWithProjection" in named
    return TextConfig(
        vocab_size=data["vocab_size"],
        hidden_size=data["hidden_size"],
        intermediate_size=data["intermediate_size"],
        num_hidden_layers=data["num_hidden_layers"],
        num_attention_heads=data["num_attention_heads"],
        max_position_embeddings=data["max_position_embeddings"],
        hidden_act=data.get("hidden_act", "quick_gelu"),
        layer_norm_eps=float(data.get("layer_norm_eps", 1e-5)),
        projection_dim=data.get("projection_dim", 512) if projected else 0,
        eos_token_id=data.get("eos_token_id", 49407),
        skipped_layers=1 if xl else 0,
        final_norm=not xl,
    )
