"""Network configurations of diffusers and transformers, read field by field.

A field is either understood or must have the value that leaves the network unchanged; any other
value is refused, because ignoring it would give another image.

The networks are U-Nets and their ControlNets, autoencoders, and text encoders: CLIP and T5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as shorten
from typing import Any

from ldmref.errors import short_repr
from ldmref.io.diffusers.checks import (
    config_error,
    require_class,
    require_lists,
    require_plain,
    unsupported,
)
from ldmref.models.autoencoder import SIGMOID
from ldmref.models.autoencoder_config import AutoencoderConfig, BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import list_autoencoders
from ldmref.models.config import TextConfig
from ldmref.models.controlnet import ControlNetConfig
from ldmref.models.denoiser_config import UNetConfig

# Fields whose other values would change the network -> the values that do not.
UNET_PLAIN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "center_input_sample": (False,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "only_cross_attention": (False,),
    "dual_cross_attention": (False,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1.0, 1),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "num_attention_heads": (None,),
    "reverse_transformer_layers_per_block": (None,),
    "dropout": (0.0,),
}
OWN_AUTOENCODERS = ("AutoencoderKL", "VQModel", SIGMOID)
VAE_PLAIN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "latents_mean": (None,),
    "latents_std": (None,),
}
# Defaults of the classes in diffusers and transformers, for fields that a configuration omits.
UNET_DEFAULTS: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 1280,
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "transformer_layers_per_block": 1,
    "use_linear_projection": False,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "projection_class_embeddings_input_dim": None,
}
VAE_DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": (64,),
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "mid_block_add_attention": True,
}
KL_DEFAULTS: dict[str, Any] = {  # of fields that VQ autoencoders do not have
    "shift_factor": None,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}
TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "projection_dim": 512,
    "eos_token_id": 49407,
}

DEFAULTS = UNET_DEFAULTS | {
    "conditioning_channels": 3,
    "conditioning_embedding_out_channels": (16, 32, 96, 256),
}
PLAIN: dict[str, tuple[Any, ...]] = {
    "controlnet_conditioning_channel_order": ("rgb",),
    "global_pool_conditions": (False,),
}

T5_CLASS = "T5EncoderModel"
T5_PLAIN: dict[str, tuple[Any, ...]] = {
    "dense_act_fn": ("gelu_new",),
    "is_gated_act": (True,),
    "is_decoder": (False,),
}
# Defaults of T5Config, for fields that a configuration omits.
T5_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
}
T5_FIELDS = {
    "d_model": "hidden_size",
    "d_kv": "head_dim",
    "d_ff": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "layer_norm_epsilon": "layer_norm_eps",
}


def find_attention_levels(
    down: Sequence[str], up: Sequence[str], plain: str, attention: str, where: str
) -> tuple[bool, ...]:
    """Return whether each level has attention, from the types of the blocks.

    Args:
        down: Types from the outermost level inwards.
        up: Types from the innermost level outwards, which must mirror `down`.
        plain: The type of down blocks without attention.
        attention: The type of down blocks with attention.
        where: The beginning of the error's message.
    """
    down = list(down)
    up = list(up)
    mirrored = [k.replace("Down", "Up").replace("Encoder", "Decoder") for k in reversed(down)]
    if not {*down} <= {plain, attention} or up != mirrored:
        kinds = f"{shorten(down)} and {shorten(up)}"
        raise unsupported(f"{where} has blocks {kinds}, which are not supported")
    return tuple(kind == attention for kind in down)


def _per_level(value: Any, levels: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (int(value),) * levels


def convert_unet_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that every U-Net of diffusers shares with ours."""
    names = ("in_channels", "out_channels", "layers_per_block", "norm_num_groups")
    fields = {name: data[name] for name in names} | {"sample_size": get_trained_size(data)[0]}
    fields["block_out_channels"] = tuple(data["block_out_channels"])
    return fields | {"norm_eps": float(data["norm_eps"])}


def get_trained_size(data: Mapping[str, Any]) -> tuple[int, int]:
    """Return latent height and width from a U-Net's `sample_size`, one number or two."""
    size = data.get("sample_size") or 64
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return height, width


def convert_unet_config(data: Mapping[str, Any]) -> UNetConfig:
    """Convert the configuration of a `UNet2DConditionModel`.

    Its `attention_head_dim` is the number of heads, in spite of its name.
    """
    data = UNET_DEFAULTS | dict(data)
    where = "the U-Net's configuration"
    require_plain(data, UNET_PLAIN, where)
    require_lists(data, UNET_DEFAULTS, where)
    if not isinstance(data["layers_per_block"], int):
        raise unsupported("the U-Net's layers_per_block must be one number")
    blocks = data["down_block_types"], data["up_block_types"]
    levels = len(data["block_out_channels"])
    return UNetConfig(
        **convert_unet_fields(data),
        attention_levels=find_attention_levels(
            *blocks, "DownBlock2D", "CrossAttnDownBlock2D", where
        ),
        num_heads=_per_level(data["attention_head_dim"], levels),
        transformer_layers_per_block=_per_level(data["transformer_layers_per_block"], levels),
        cross_attention_dim=data["cross_attention_dim"],
        use_linear_projection=data["use_linear_projection"],
        addition_embed_type=data["addition_embed_type"] or "",
        addition_time_embed_dim=data["addition_time_embed_dim"] or 256,
        projection_class_embeddings_input_dim=data["projection_class_embeddings_input_dim"] or 2816,
    )


def convert_autoencoder_config(data: Mapping[str, Any]) -> BaseAutoencoderConfig:
    """Convert the configuration of an autoencoder, of ldmref's kinds or of another package's.

    Args:
        data: The contents of config.json.

    Returns:
        The configuration in the terms of ldmref.

    Raises:
        CorruptModelError: A field is not supported.

    >>> from ldmref.io.diffusers import convert_autoencoder_config
    >>> data = {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512]}
    >>> convert_autoencoder_config(data).factor
    8
    """
    name = data.get("_class_name", OWN_AUTOENCODERS[0])
    if name in OWN_AUTOENCODERS:
        return convert_own_autoencoder(data)
    classes = autoencoder_classes()
    require_class(name, {*OWN_AUTOENCODERS, *classes}, "the autoencoder is", "E-VAE")
    return classes[name](data)


def autoencoder_classes() -> dict[str, Callable[[Mapping[str, Any]], BaseAutoencoderConfig]]:
    """Return what reads the configuration of each class of the kinds of other packages."""
    return {name: read for kind in list_autoencoders() for name, read in kind.classes.items()}


def convert_own_autoencoder(data: Mapping[str, Any]) -> AutoencoderConfig:
    """Convert the configuration of an `AutoencoderKL`, a `VQModel` or our `SigmoidAutoencoder`.

    Raises:
        CorruptModelError: A field is not supported.
    """
    plain = VAE_PLAIN
    vq = data.get("_class_name") == "VQModel"
    fields: dict[str, Any] = VAE_DEFAULTS | ({"latent_channels": 3} if vq else KL_DEFAULTS)
    fields |= {name: data[name] for name in fields if name in data}
    if vq:
        plain = plain | {
            "norm_type": ("group",),
            "lookup_from_codebook": (False,),
            "vq_embed_dim": (None, fields["latent_channels"]),
        }
    where = "the autoencoder's configuration"
    require_plain(data, plain, where)
    require_lists(fields, VAE_DEFAULTS, where)
    levels = len(fields["block_out_channels"])
    down = data.get("down_block_types") or ("DownEncoderBlock2D",) * levels
    up = data.get("up_block_types") or ("UpDecoderBlock2D",) * levels
    kinds = ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")
    attends = find_attention_levels(down, up, *kinds, "the autoencoder")
    fields["block_out_channels"] = tuple(fields["block_out_channels"])
    for name in ("scaling_factor", "shift_factor"):
        value = fields.get(name) or 0.0
        if not isinstance(value, int | float):
            raise config_error(f"{where} has a {name} that is not a number: {short_repr(value)}")
        fields[name] = float(value)
    codebook_size = data.get("num_vq_embeddings", 256) if vq else 0
    levels_with_attention = attends if any(attends) else ()
    return AutoencoderConfig(
        **fields,
        attention_levels=levels_with_attention,
        codebook_size=codebook_size,
        latent_activation="sigmoid" if data.get("_class_name") == SIGMOID else "",
    )


def convert_text_config(
    data: Mapping[str, Any], xl: bool = False, class_name: str = ""
) -> TextConfig:
    """Convert the configuration of a CLIP text encoder.

    Args:
        data: The contents of config.json.
        xl: Whether the model is SDXL, which uses the penultimate layer without the last norm.
        class_name: The class that model_index.json names; "": the class in `data`.

    Returns:
        The configuration.

    >>> from ldmref.io.diffusers import convert_text_config
    >>> convert_text_config({"hidden_size": 64, "num_attention_heads": 4}).hidden_size
    64
    """
    data = TEXT_DEFAULTS | dict(data)
    classes = [class_name] if class_name else data.get("architectures") or []
    fields = {name: data[name] for name in TEXT_DEFAULTS}
    fields["layer_norm_eps"] = float(fields["layer_norm_eps"])
    if "CLIPTextModelWithProjection" not in classes:
        fields["projection_dim"] = 0
    return TextConfig(**fields, skipped_layers=1 if xl else 0, final_norm=not xl)


def convert_controlnet_config(data: Mapping[str, Any]) -> ControlNetConfig:
    """Convert the configuration of a `ControlNetModel`."""
    data = DEFAULTS | dict(data)
    where = "the ControlNet's configuration"
    require_plain(data, PLAIN, where)
    require_lists(data, DEFAULTS, where)
    mirrored = [kind.replace("Down", "Up") for kind in reversed(data["down_block_types"])]
    unet = convert_unet_config(
        data | {"out_channels": data["in_channels"], "up_block_types": mirrored}
    )
    widths = tuple(data["conditioning_embedding_out_channels"])
    return ControlNetConfig(unet, data["conditioning_channels"], widths)


def convert_t5_config(data: Mapping[str, Any], length: int) -> TextConfig:
    """Convert the configuration of a T5 encoder.

    Args:
        data: The contents of config.json.
        length: The number of tokens that the pipeline gives it.

    Returns:
        The configuration; a family that masks padding sets `use_attention_mask` in it.

    Raises:
        CorruptModelError: It is another kind of T5: the first version has no gate.

    >>> from ldmref.io.diffusers import convert_t5_config
    >>> convert_t5_config({"d_model": 64, "feed_forward_proj": "gated-gelu"}, 120).hidden_size
    64
    """
    data = T5_DEFAULTS | split_activation(str(data.get("feed_forward_proj", "relu"))) | dict(data)
    require_plain(data, T5_PLAIN, "the T5 encoder's configuration")
    fields = {T5_FIELDS.get(name, name): data[name] for name in T5_DEFAULTS}
    fields["layer_norm_eps"] = float(fields["layer_norm_eps"])
    return TextConfig(
        model_type="t5",
        hidden_act="gelu_new",
        max_position_embeddings=length,
        eos_token_id=1,
        **fields,
    )


def split_activation(projection: str) -> dict[str, Any]:
    """Return the fields that `feed_forward_proj` stands for in transformers, where they win.

    >>> split_activation("gated-gelu")
    {'dense_act_fn': 'gelu_new', 'is_gated_act': True}
    """
    gate, _, name = projection.rpartition("-")
    dense = "gelu_new" if projection == "gated-gelu" else name
    return {"dense_act_fn": dense, "is_gated_act": gate == "gated"}
