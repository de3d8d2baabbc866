"""Configurations from untrusted data: types, choices, ranges, and relations between fields."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from reprlib import repr as shorten
from typing import Any, TypeVar, get_args, get_type_hints

from ldmref.errors import CorruptModelError, did_you_mean
from ldmref.models.config import AutoencoderConfig, Defaults, ModelConfig, TextConfig, UNetConfig
from ldmref.models.controlnet import ControlNetConfig
from ldmref.models.taesd import TinyConfig
from ldmref.samplers.config import LEARNED, SchedulerConfig

SECTIONS = {
    "unet": UNetConfig, "vae": AutoencoderConfig, "text_encoder": TextConfig,
    "text_encoder_2": TextConfig, "scheduler": SchedulerConfig, "defaults": Defaults,
}  # fmt: skip
# fmt: off
CHOICES: dict[type, dict[str, tuple[str, ...]]] = {
    ModelConfig: {"concat": ("", "masked_image", "low_resolution", "segmentation")},
    UNetConfig: {"class_embed_type": ("", "simple_projection"), "attention": ("cross", "self"),
                 "addition_embed_type": ("", "text_time"),
                 "resnet_time_scale_shift": ("default", "scale_shift")},
    AutoencoderConfig: {"latent_activation": ("", "sigmoid")},
    TextConfig: {"model_type": ("clip", "ldmbert", "class", "none"),
                 "hidden_act": ("gelu", "quick_gelu")},
    SchedulerConfig: {"prediction_type": ("eps", "v", "x0"),
                      "beta_schedule": ("linear", "scaled_linear", "cosine"),
                      "solver_type": ("", "midpoint", "heun", "bh1", "bh2"),
                      "timestep_rounding": ("", "round", "cut"),
                      "variance_type": ("fixed_small", "fixed_large", "learned_range")},
}
# Every number of a configuration has limits, inclusive; those of a tuple apply to each element.
WIDTH, LAYERS, EPS = (1, 65536), (1, 16), (0, 1)
RANGES: dict[type, dict[str, tuple[float, float]]] = {
    ModelConfig: {"segmentation_classes": (0, 65536)},
    UNetConfig: {"in_channels": WIDTH, "out_channels": WIDTH, "sample_size": WIDTH,
                 "block_out_channels": WIDTH, "layers_per_block": LAYERS, "num_heads": WIDTH,
                 "transformer_layers_per_block": (1, 100), "cross_attention_dim": (0, 65536),
                 "addition_time_embed_dim": WIDTH,
                 "projection_class_embeddings_input_dim": (1, 2**20), "norm_num_groups": WIDTH,
                 "norm_eps": EPS},
    AutoencoderConfig: {"in_channels": WIDTH, "out_channels": WIDTH, "latent_channels": WIDTH,
                        "block_out_channels": WIDTH, "layers_per_block": LAYERS,
                        "codebook_size": (0, 10**7), "norm_num_groups": WIDTH, "norm_eps": EPS,
                        "scaling_factor": (1e-9, 1e9)},
    TinyConfig: {"in_channels": WIDTH, "out_channels": WIDTH, "latent_channels": WIDTH,
                 "encoder_channels": WIDTH, "decoder_channels": WIDTH,
                 "num_encoder_blocks": LAYERS, "num_decoder_blocks": LAYERS},
    ControlNetConfig: {"conditioning_channels": WIDTH,
                       "conditioning_embedding_out_channels": WIDTH},
    TextConfig: {"vocab_size": (1, 10**7), "hidden_size": WIDTH, "intermediate_size": WIDTH,
                 "num_hidden_layers": (1, 256), "num_attention_heads": WIDTH,
                 "head_dim": (0, 65536), "max_position_embeddings": WIDTH,
                 "layer_norm_eps": EPS, "projection_dim": (0, 65536),
                 "eos_token_id": (0, 10**7), "skipped_layers": (0, 255)},
    SchedulerConfig: {"num_train_timesteps": (2, 100_000), "beta_start": (0, 1),
                      "beta_end": (0, 1), "steps_offset": (0, 100_000), "trained_betas": (0, 1),
                      "original_inference_steps": (1, 100_000),
                      "disable_corrector": (-100_000, 100_000), "sigma_max": (1, math.inf),
                      "clip_sample_range": (0, math.inf), "sample_max_value": (0, math.inf),
                      "thresholding_ratio": (0, 1)},
    Defaults: {"steps": (1, 100_000), "cfg_scale": (-1e6, 1e6), "inpaint_cfg_scale": (-1e6, 1e6),
               "width": WIDTH, "height": WIDTH},
}
MAX_LEVELS = 10  # of a network; entries of its tuples
LISTS = ("trained_betas", "disable_corrector", "class_names")  # not by level
# fmt: on
T = TypeVar("T")


def config_from_dict(data: Mapping[str, Any]) -> ModelConfig:
    """The inverse of `ModelConfig.to_dict`, with every field checked.

    Raises:
        CorruptModelError: an unknown field, or a value of the wrong type or range.
    """
    sections = {
        name: _read(cls, data[name], name) for name, cls in SECTIONS.items() if name in data
    }
    values = {name: value for name, value in data.items() if name not in SECTIONS}
    config = replace(_read(ModelConfig, values, "model"), **sections)
    check_config(config)
    return config


def _read(cls: type[T], data: Any, where: str) -> T:
    """`cls(**data)`, with the types checked."""
    if not isinstance(data, Mapping):
        raise _error(f"{where} is not an object")
    defaults, types = vars(cls()), get_type_hints(cls)
    values = {}
    for name, value in data.items():
        if name not in types:
            raise _error(f"unknown field {where}.{name[:80]}", hint=did_you_mean(name, types))
        values[name] = _typed(value, types[name], defaults[name], f"{where}.{name}")
    return cls(**values)


def _typed(value: Any, kind: Any, default: Any, name: str) -> Any:
    """`value` as a field of type `kind`: lists become tuples, integers floats.

    A tuple may be empty only if the default is.
    """
    if isinstance(default, tuple):
        element = get_args(kind)[0]
        if isinstance(value, list | tuple) and (value or not default):
            if all(type(x) is element for x in value):
                return tuple(value)
    elif kind is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    elif type(value) is kind or (kind is float and isinstance(value, float)):
        return value
    raise _error(f"{name} = {shorten(value)}, wanted a value like {default!r}")


def check_config(config: ModelConfig) -> None:
    """Refuse a configuration with invalid values, or whose networks do not fit together.

    Raises:
        CorruptModelError: names the first problem.
    """
    check_fields(config, "model")
    for name in SECTIONS:
        if getattr(config, name) is not None:
            check_fields(getattr(config, name), name)
    for rule in _broken_rules(config):
        raise _error(rule)


def check_network(config: Any, name: str) -> None:
    """Refuse the configuration of one network with invalid values; see `check_config`."""
    check_fields(config, name)
    unet = getattr(config, "unet", config)
    if unet is not config:
        check_fields(unet, name)
    rules = {UNetConfig: _broken_unet_rules, AutoencoderConfig: _broken_autoencoder_rules}
    for rule in rules[type(unet)](unet) if type(unet) in rules else ():
        raise _error(rule)


def check_fields(section: Any, where: str) -> None:
    """Refuse a field of a dataclass that has the wrong type, or is not in its range or choices."""
    types, defaults = get_type_hints(type(section)), vars(type(section)())
    for name in (field for field in types if field not in SECTIONS):
        value = _typed(getattr(section, name), types[name], defaults[name], f"{where}.{name}")
        known = CHOICES.get(type(section), {}).get(name)
        if known is not None and value not in known:
            hint = did_you_mean(str(value), known)
            raise _error(f"{where}.{name} = {shorten(value)}", hint=hint)
        values = value if isinstance(value, tuple) else (value,)
        limits = RANGES[type(section)].get(name)
        numbers = [x for x in values if type(x) in (int, float)]
        if limits and not all(limits[0] <= x <= limits[1] for x in numbers):
            low, high = limits
            allowed = f"from {low} to {high}" if high < math.inf else f"at least {low}"
            raise _error(f"{where}.{name} = {shorten(value)} must be {allowed}")
        if name not in LISTS and len(values) > MAX_LEVELS:
            raise _error(f"{where}.{name} has {len(value)} entries, the limit is {MAX_LEVELS}")


def _broken_rules(config: ModelConfig) -> Iterator[str]:
    """The relations between fields that do not hold."""
    yield from _broken_unet_rules(config.unet)
    yield from _broken_autoencoder_rules(config.vae)
    u, v, s, texts = config.unet, config.vae, config.scheduler, config.text_encoders
    z, concat = v.latent_channels, config.concat
    if u.out_channels != (2 * z if s.variance_type == LEARNED else z):
        yield "unet.out_channels must equal vae.latent_channels, twice with a learned variance"
    extra = {"": (0, 1 + z), "masked_image": (1 + z,), "low_resolution": (v.in_channels,)}
    if concat in extra and config.image_channels not in extra[concat]:
        widths = " or ".join(str(z + n) for n in extra[concat])
        yield f"unet.in_channels must be {widths} with concat {concat!r}"
    if concat == "segmentation" and config.image_channels <= 0:
        yield f"unet.in_channels must exceed {z} with concat 'segmentation'"
    classes = (1, 65536) if concat == "segmentation" else (0, 0)
    if not classes[0] <= config.segmentation_classes <= classes[1]:
        yield "segmentation_classes must be from 1 to 65536 with concat 'segmentation', else 0"

    if (u.attention == "cross") != bool(texts):
        yield "a U-Net with cross-attention needs a text encoder, and no other U-Net has one"
    if config.text_encoder_2 is not None and {t.model_type for t in texts} != {"clip"}:
        yield "only CLIP text encoders come in pairs"
    if texts and u.cross_attention_dim != sum(t.hidden_size for t in texts):
        yield "unet.cross_attention_dim must equal the text encoders' hidden_size"
    pooled = texts[-1].projection_dim if texts else 0
    width = u.projection_class_embeddings_input_dim
    if u.addition_embed_type and not 0 < pooled == width - 6 * u.addition_time_embed_dim:
        yield "unet.projection_class_embeddings_input_dim must be pooled text and six sizes"
    for text in texts:
        if text.head_dim == 0 and text.hidden_size % text.num_attention_heads:
            yield "num_attention_heads must divide the text encoder's hidden_size"
        names = text.class_names
        if names and (text.model_type != "class" or len(set(names)) != text.vocab_size - 1):
            yield "class_names needs a name of its own for every class but the null class"
        if text.head_dim and text.model_type != "ldmbert":
            yield "head_dim is for 'ldmbert' only"
        if not 0 <= text.skipped_layers < text.num_hidden_layers:
            yield "skipped_layers must leave a layer of the text encoder"

    if not 0 < s.beta_start <= s.beta_end < 1:
        yield "scheduler betas must satisfy 0 < beta_start <= beta_end < 1"
    betas = s.trained_betas
    if betas and (len(betas) != s.num_train_timesteps or not all(0 < b < 1 for b in betas)):
        yield "scheduler.trained_betas needs a number in (0, 1) per training timestep, or none"


def _broken_unet_rules(u: UNetConfig) -> Iterator[str]:
    for name in ("attention_levels", "num_heads", "transformer_layers_per_block"):
        if len(getattr(u, name)) != len(u.block_out_channels):
            yield f"unet.{name} needs an entry per level"
    if any(c % heads for c, heads in zip(u.block_out_channels, u.num_heads, strict=False)):
        yield "unet.num_heads must divide the level's channels"
    if any(c % u.norm_num_groups for c in u.block_out_channels):
        yield "unet.norm_num_groups must divide every channel count"
    if u.block_out_channels[0] % 2 or u.addition_time_embed_dim % 2:
        yield "unet.block_out_channels[0] and addition_time_embed_dim must be even: sines, cosines"


def _broken_autoencoder_rules(v: AutoencoderConfig) -> Iterator[str]:
    if len(v.attention_levels) not in (0, len(v.block_out_channels)):
        yield "vae.attention_levels needs an entry per level, or none"
    if any(c % v.norm_num_groups for c in v.block_out_channels):
        yield "vae.norm_num_groups must divide every channel count"
    if v.codebook_size and v.latent_activation:
        yield "vae.latent_activation is for autoencoders without a codebook"


def _error(message: str, hint: str = "") -> CorruptModelError:
    return CorruptModelError(f"bad model configuration: {message}", code="E-CONFIG", hint=hint)
