"""Limits of configurations: every limit itself is allowed, and values beyond it are refused."""

from __future__ import annotations

import math
import typing
from dataclasses import fields, replace

import pytest

from ldmref.errors import CorruptModelError
from ldmref.models.config import AutoencoderConfig, Defaults, ModelConfig, TextConfig
from ldmref.models.controlnet import ControlNetConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.presets import PRESETS, preset
from ldmref.models.taesd import TinyConfig
from ldmref.models.validate import check_config, check_fields, check_network, config_from_dict
from ldmref.samplers.config import SchedulerConfig

# The limit of a number depends on the thing that it counts or measures; fields by section.
WIDTHS = (1, 2**16)
BLOCKS = (1, 16)
LIMITS = {
    UNetConfig: {
        WIDTHS: "in_channels out_channels sample_size block_out_channels num_heads "
        "addition_time_embed_dim norm_num_groups",
        (0, 2**16): "cross_attention_dim",
        (1, 2**20): "projection_class_embeddings_input_dim",
        (1, 100): "transformer_layers_per_block",
        BLOCKS: "layers_per_block",
        (0.0, 1.0): "norm_eps",
    },
    AutoencoderConfig: {
        WIDTHS: "in_channels out_channels latent_channels block_out_channels norm_num_groups",
        BLOCKS: "layers_per_block",
        (0, 10**7): "codebook_size",
        (0.0, 1.0): "norm_eps",
        (1e-9, 1e9): "scaling_factor",
        (-1e9, 1e9): "preview shift_factor",
    },
    TinyConfig: {
        WIDTHS: "in_channels out_channels latent_channels encoder_channels decoder_channels",
        BLOCKS: "num_encoder_blocks num_decoder_blocks",
    },
    ControlNetConfig: {WIDTHS: "conditioning_channels conditioning_embedding_out_channels"},
    TextConfig: {
        WIDTHS: "hidden_size intermediate_size num_attention_heads max_position_embeddings",
        (0, 2**16): "head_dim projection_dim",
        (1, 10**7): "vocab_size",
        (0, 10**7): "eos_token_id",
        (1, 256): "num_hidden_layers",
        (0, 255): "skipped_layers",
        (0.0, 1.0): "layer_norm_eps",
        (4, 2**16): "relative_attention_num_buckets",
        (2, 10**6): "relative_attention_max_distance",
    },
    SchedulerConfig: {
        (2, 100_000): "num_train_timesteps",
        (1, 100_000): "original_inference_steps",
        (0, 100_000): "steps_offset",
        (-100_000, 100_000): "disable_corrector",
        (
            0.0,
            1.0,
        ): "beta_start beta_end trained_betas thresholding_ratio shift_terminal flow_times",
        (0.0, math.inf): "clip_sample_range sample_max_value",
        (1.0, math.inf): "sigma_max",
        (1e-6, 1e6): "shift",
        (-20.0, 20.0): "base_shift max_shift",
        (1, 10**6): "base_image_seq_len max_image_seq_len",
    },
    Defaults: {
        WIDTHS: "width height",
        (1, 100_000): "steps",
        (-1e6, 1e6): "cfg_scale inpaint_cfg_scale",
    },
    ModelConfig: {(0, 65536): "segmentation_classes"},
}
FIELDS = [
    (cls, name, *limits)
    for cls, groups in LIMITS.items()
    for limits, names in groups.items()
    for name in names.split()
]
CHOICES = {
    (ModelConfig, "concat"): ["", "masked_image", "folded_mask", "low_resolution", "segmentation"],
    (UNetConfig, "class_embed_type"): ["", "simple_projection"],
    (UNetConfig, "attention"): ["cross", "self"],
    (UNetConfig, "addition_embed_type"): ["", "text_time"],
    (UNetConfig, "resnet_time_scale_shift"): ["default", "scale_shift"],
    (TextConfig, "hidden_act"): ["gelu", "quick_gelu", "gelu_new"],
    (SchedulerConfig, "prediction_type"): ["eps", "v", "x0", "flow"],
    (SchedulerConfig, "beta_schedule"): ["linear", "scaled_linear", "cosine"],
    (SchedulerConfig, "solver_type"): ["", "midpoint", "heun", "bh1", "bh2"],
    (SchedulerConfig, "timestep_rounding"): ["", "round", "cut"],
    (SchedulerConfig, "variance_type"): ["fixed_small", "fixed_large"],
}


def check(cls, name, value):
    """Check the field alone: relations between fields do not count."""
    default = getattr(cls(), name)
    check_fields(replace(cls(), **{name: (value,) if isinstance(default, tuple) else value}), "x")


def beyond(value, toward):
    return (
        math.nextafter(value, toward) if isinstance(value, float) else value + (toward > 0) * 2 - 1
    )


@pytest.mark.parametrize("cls,name,low,high", FIELDS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_limits_are_inclusive(cls, name, low, high):
    for value in (low, high) if high < math.inf else (low,):
        check(cls, name, value)
    for value in (beyond(low, -math.inf), beyond(high, math.inf) if high < math.inf else math.nan):
        with pytest.raises(CorruptModelError) as caught:
            check(cls, name, value)
        assert caught.value.code == "E-CONFIG" and f"x.{name}" in str(caught.value)


def test_no_number_is_without_limits():
    listed = {(cls, name) for cls, name, *_ in FIELDS}
    for cls in LIMITS:
        kinds = typing.get_type_hints(cls)
        for field in fields(cls):
            number = {kinds[field.name], *typing.get_args(kinds[field.name])} & {int, float}
            assert not number or (cls, field.name) in listed, field.name


@pytest.mark.parametrize("cls,name", CHOICES, ids=lambda x: getattr(x, "__name__", x))
def test_choices(cls, name):
    for value in CHOICES[cls, name]:
        check(cls, name, value)
    for value in ("other", CHOICES[cls, name][-1] + "s"):
        with pytest.raises(CorruptModelError) as caught:
            check(cls, name, value)
        assert value in str(caught.value) and CHOICES[cls, name][-1] in caught.value.hint


def test_a_network_has_ten_levels_at_most():
    """A training schedule may have as many betas as timesteps."""
    check_fields(replace(UNetConfig(), block_out_channels=(32,) * 10), "x")
    with pytest.raises(CorruptModelError, match="entries, not 11"):
        check_fields(replace(UNetConfig(), block_out_channels=(32,) * 11), "x")
    check_fields(SchedulerConfig(trained_betas=(0.5,) * 1000), "x")


# -- relations between fields ---------------------------------------------------------------------


def changed(name, section="", **values):
    """Return a preset with some fields of a section changed."""
    config = preset(name)
    if not section:
        return replace(config, **values)
    return replace(config, **{section: replace(getattr(config, section), **values)})


def betas(steps, *values):
    return changed("tiny", "scheduler", num_train_timesteps=steps, trained_betas=values)


TINY_BERT = dict(model_type="ldmbert", num_attention_heads=3, head_dim=8, hidden_act="gelu")
T5 = dict(model_type="t5", head_dim=5, hidden_act="gelu_new")
ALLOWED = [
    changed("tiny", "scheduler", beta_start=0.01, beta_end=0.01),
    changed("tiny", "scheduler", beta_end=math.nextafter(1.0, 0.0)),
    betas(2, 0.1, 0.9),
    changed("tiny", "text_encoder", skipped_layers=1),
    changed("tiny", "text_encoder", **T5),
    changed("tiny", "text_encoder", **T5, relative_attention_max_distance=9),
    changed("tiny", "text_encoder", **TINY_BERT),  # 3 heads of 8 in a width of 32
    changed("tiny", "vae", attention_levels=(True, False)),
    changed("tiny", "denoiser", in_channels=9),  # masked latents and mask
    changed("ldm-semantic", segmentation_classes=1),
    changed("ldm-semantic", segmentation_classes=65536),
    changed("ldm-semantic", "denoiser", in_channels=4),  # one channel of the map
]
REFUSED = [
    (changed("tiny", "scheduler", beta_start=0.0), "0 < beta_start"),
    (changed("tiny", "scheduler", beta_end=1.0), "beta_end < 1"),
    (betas(2, 0.0, 0.9), "trained_betas"),
    (betas(2, 0.1, 1.0), "trained_betas"),
    (betas(3, 0.1, 0.9), "trained_betas"),
    (changed("tiny", "text_encoder", skipped_layers=2), "skipped_layers"),
    (changed("tiny", "text_encoder", head_dim=16), "head_dim"),
    (changed("tiny", "text_encoder", **T5 | {"hidden_act": "gelu"}), "gelu_new"),
    (changed("tiny", "text_encoder", hidden_act="gelu_new"), "activation of 'clip'"),
    (changed("tiny", "text_encoder", **T5, relative_attention_max_distance=8), "buckets"),
    (changed("sdxl", "text_encoder_2", **T5), "only CLIP"),
    (changed("sdxl", text_encoder_3=TextConfig()), "only CLIP"),
    (changed("sd15", text_encoder_3=TextConfig()), "needs text_encoder_2"),
    (changed("tiny", "text_encoder", num_attention_heads=5), "num_attention_heads"),
    (changed("tiny", "text_encoder", model_type="none"), "cross-attention"),
    (changed("tiny", "vae", attention_levels=(True,)), "vae.attention_levels"),
    (changed("tiny", "vae", latent_channels=5), "unet.out_channels"),
    (changed("tiny", "denoiser", cross_attention_dim=64), "cross_attention_dim"),
    *((changed("tiny", "denoiser", in_channels=n), "4 or 9 with") for n in (3, 5, 8, 10)),
    (changed("ldm-superres", "denoiser", in_channels=7), "must be 6 with"),
    (changed("ldm-inpainting", "denoiser", in_channels=3), "must be 7 with"),
    (changed("ldm-semantic", "denoiser", in_channels=3), "must exceed 3"),
    (changed("ldm-semantic", segmentation_classes=0), "segmentation_classes"),
    (changed("sd15", segmentation_classes=1), "segmentation_classes"),
    (changed("sdxl", "text_encoder_2", hidden_size=1300), "cross_attention_dim"),
    (changed("sdxl", "text_encoder", model_type="class"), "do not come together"),
    (changed("sdxl", "denoiser", addition_time_embed_dim=254), "pooled text and six sizes"),
    (changed("sdxl", "denoiser", addition_time_embed_dim=255), "must be even"),
    (changed("sdxl", "denoiser", projection_class_embeddings_input_dim=2815), "pooled text"),
]


@pytest.mark.parametrize("config", ALLOWED, ids=range(len(ALLOWED)))
def test_what_just_fits_together(config):
    check_config(config)
    assert config_from_dict(config.to_dict()) == config


@pytest.mark.parametrize("config,rule", REFUSED, ids=range(len(REFUSED)))
def test_what_does_not_fit_together(config, rule):
    with pytest.raises(CorruptModelError, match=rule) as caught:
        check_config(config)
    assert caught.value.code == "E-CONFIG"


@pytest.mark.parametrize(
    "config,rule",
    [
        (UNetConfig(norm_num_groups=7), "norm_num_groups"),
        (UNetConfig(num_heads=(8, 8, 8, 7)), "num_heads"),
        (UNetConfig(num_heads=(8, 8, 8)), "num_heads needs"),
        (UNetConfig(attention_levels=(True,)), "attention_levels needs"),
        (UNetConfig(transformer_layers_per_block=(1,)), "transformer_layers_per_block needs"),
        (AutoencoderConfig(norm_num_groups=5), "norm_num_groups"),
        (AutoencoderConfig(attention_levels=(True,)), "attention_levels needs"),
        (AutoencoderConfig(latent_channels=0), "latent_channels"),
        (ControlNetConfig(unet=UNetConfig(norm_num_groups=7)), "norm_num_groups"),
        (ControlNetConfig(unet=UNetConfig(in_channels=0)), "in_channels"),
        (ControlNetConfig(conditioning_channels=0), "conditioning_channels"),
        (TinyConfig(num_encoder_blocks=(17,)), "num_encoder_blocks"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_one_network_alone(config, rule):
    check_network(type(config)(), "net")
    with pytest.raises(CorruptModelError, match=rule):
        check_network(config, "net")


@pytest.mark.parametrize("name", PRESETS)
def test_sections_may_be_left_out_if_they_are_the_defaults(name):
    data = preset(name).to_dict()
    defaults = ModelConfig().to_dict()
    short = {key: value for key, value in data.items() if value != defaults.get(key)}
    assert config_from_dict(short) == preset(name)


@pytest.mark.parametrize(
    "value,accepted",
    [(1, True), (1.0, True), (True, False), ("1", False), (10**400, False), (None, False)],
)
def test_numbers_are_numbers(value, accepted):
    data = preset("tiny").to_dict()
    data["defaults"] = data["defaults"] | {"cfg_scale": value}
    if accepted:
        scale = config_from_dict(data).defaults.cfg_scale
        assert scale == 1.0 and type(scale) is float
    else:
        with pytest.raises(CorruptModelError, match="cfg_scale"):
            config_from_dict(data)


def test_an_unknown_field_is_named_with_the_nearest():
    with pytest.raises(CorruptModelError, match=r"unet\.attention_levls") as caught:
        config_from_dict(PRESETS["tiny"].to_dict() | {"unet": {"attention_levls": []}})
    assert "'attention_levels'" in caught.value.hint
