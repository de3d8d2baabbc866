"""Presets against the configuration files that their makers published."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ldmref.io.diffusers.folder import read_diffusers_config
from ldmref.models.presets import PRESETS, preset
from ldmref.models.presets_ldm import FIRST_STAGES

# -- Stable Diffusion: the files of their diffusers folders ---------------------------------------

CROSS = "CrossAttnDownBlock2D"
PLAIN = "DownBlock2D"
UNET = {
    "act_fn": "silu", "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False, "cross_attention_dim": 768, "downsample_padding": 1,
    "down_block_types": [CROSS, CROSS, CROSS, PLAIN], "flip_sin_to_cos": True, "freq_shift": 0,
    "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05,
    "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}  # fmt: skip
UNET_2 = UNET | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "dual_cross_attention": False,
    "only_cross_attention": False,
}
UNET_XL = UNET | {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": [PLAIN, CROSS, CROSS],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}
VAE = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3, "latent_channels": 4,
    "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3, "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
TEXT = {
    "architectures": ["CLIPTextModel"], "bos_token_id": 0, "eos_token_id": 2, "hidden_act":
    "quick_gelu", "hidden_size": 768, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77, "num_attention_heads": 12, "num_hidden_layers": 12,
    "projection_dim": 768, "vocab_size": 49408,
}  # fmt: skip
TEXT_H = TEXT | {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "projection_dim": 512,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
}
TEXT_BIGG = TEXT | {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1280,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
}
PNDM = {
    "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "beta_start": 0.00085, "clip_sample": False, "num_train_timesteps": 1000,
    "prediction_type": "epsilon", "set_alpha_to_one": False, "skip_prk_steps": True,
    "steps_offset": 1, "trained_betas": None,
}  # fmt: skip
DDIM_V = PNDM | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
EULER = PNDM | {
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
PARTS = ("unet", "vae", "text_encoder", "scheduler", "text_encoder_2")
FOLDERS = {
    "sd15": (UNET, VAE, TEXT, PNDM),
    "sd15-inpainting": (UNET | {"in_channels": 9}, VAE, TEXT, PNDM),
    "sd2-base": (UNET_2, VAE, TEXT_H, PNDM),
    "sd2-v": (UNET_2 | {"sample_size": 96}, VAE, TEXT_H, DDIM_V),
    "sd2-inpainting": (UNET_2 | {"in_channels": 9}, VAE, TEXT_H, PNDM),
    "sdxl": (UNET_XL, VAE | {"scaling_factor": 0.13025}, TEXT, EULER, TEXT_BIGG),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_published_folder_is_read_as_the_preset(tmp_path, name):
    index = {"_class_name": "StableDiffusionPipeline"}
    if name == "sdxl":
        index = {
            "_class_name": "StableDiffusionXLPipeline",
            "force_zeros_for_empty_prompt": True,
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for part, config in zip(PARTS, FOLDERS[name], strict=False):
        (tmp_path / part).mkdir()
        file = "scheduler_config.json" if part == "scheduler" else "config.json"
        (tmp_path / part / file).write_text(json.dumps(config))
    got = read_diffusers_config(tmp_path)
    want = preset(name)
    # Karras' and other continuous spacings: single files have the whole table, folders diffusers'
    assert want.scheduler.full_range and not got.scheduler.full_range
    want = replace(want, scheduler=replace(want.scheduler, full_range=False))
    # files of that time write 2 and mean the largest id, which is 49407
    encoders = ("text_encoder", "text_encoder_2")[: len(want.text_encoders)]
    texts = {part: replace(getattr(got, part), eos_token_id=49407) for part in encoders}
    assert got.defaults.inpaint_cfg_scale == 7.5  # in diffusers' own inpainting
    defaults = replace(got.defaults, inpaint_cfg_scale=want.defaults.inpaint_cfg_scale)
    # DDIM's and PNDM's last alpha; SDXL's file says it too, but is Euler's, which has none
    assert want.scheduler.final_alpha == "sigma_min"
    scheduler = replace(got.scheduler, final_alpha="sigma_min")
    assert (scheduler == got.scheduler) == (name != "sdxl")
    got = replace(got, name=name, defaults=defaults, scheduler=scheduler, **texts)
    assert got == want


# -- latent diffusion: config.yaml of CompVis/latent-diffusion ------------------------------------

# model_channels, channel_mult, attention_resolutions (factors of downsampling), in_channels,
# out_channels, context_dim
UNETS = {
    "ldm-unconditional": (224, (1, 2, 3, 4), (8, 4, 2), 3, 3, 0),
    "ldm-churches": (192, (1, 2, 2, 4, 4), (1, 2, 4, 8), 4, 4, 0),
    "ldm-imagenet": (192, (1, 2, 3, 5), (8, 4, 2), 3, 3, 512),
    "ldm-text2img-large": (320, (1, 2, 4, 4), (4, 2, 1), 4, 4, 1280),
    "ldm-text2img256": (192, (1, 2, 3, 5), (8, 4, 2), 3, 3, 640),
    "ldm-inpainting": (256, (1, 2, 3, 4), (8, 4, 2), 7, 3, 0),
    "ldm-superres": (160, (1, 2, 2, 4), (16, 8), 6, 3, 0),
    "ldm-semantic": (128, (1, 4, 8), (32, 16, 8), 6, 3, 0),
}
RESBLOCK_UPDOWN = ("ldm-churches", "ldm-inpainting")
SCALE_SHIFT = ("ldm-churches",)


@pytest.mark.parametrize("name", UNETS)
def test_published_unets(name):
    width, multiples, attention, c_in, c_out, context = UNETS[name]
    unet = preset(name).unet
    levels = range(len(multiples))
    assert unet.block_out_channels == tuple(width * m for m in multiples)
    assert unet.attention_levels == tuple(2**level in attention for level in levels)
    assert (unet.in_channels, unet.out_channels) == (c_in, c_out)
    assert (unet.attention, unet.cross_attention_dim) == ("cross" if context else "self", context)
    assert unet.transformer_layers_per_block == (1,) * len(multiples)
    assert unet.resnet_updown == (name in RESBLOCK_UPDOWN)
    assert (unet.resnet_time_scale_shift == "scale_shift") == (name in SCALE_SHIFT)
    assert (unet.layers_per_block, unet.norm_num_groups, unet.norm_eps) == (2, 32, 1e-5)


# ch_mult; attn_resolutions: sides at which levels attend, of images of 256 x 256
STAGES = {
    "vq-f4": ((1, 2, 4), ()),
    "vq-f4-noattn": ((1, 2, 4), ()),
    "vq-f8": ((1, 2, 2, 4), (32,)),
    "vq-f8-n256": ((1, 2, 2, 4), (32,)),
    "vq-f16": ((1, 1, 2, 2, 4), (16,)),
    "kl-f4": ((1, 2, 4), ()),
    "kl-f8": ((1, 2, 4, 4), ()),
    "kl-f16": ((1, 1, 2, 2, 4), (16,)),
    "kl-f32": ((1, 1, 2, 2, 4, 4), (16, 8)),
}
FIRST_STAGE = {
    "ldm-churches": "kl-f8",
    "ldm-text2img-large": "kl-f8",
    "ldm-inpainting": "vq-f4-noattn",
    **dict.fromkeys(
        ("ldm-unconditional", "ldm-imagenet", "ldm-text2img256", "ldm-superres", "ldm-semantic"),
        "vq-f4",
    ),
}


@pytest.mark.parametrize("name", STAGES)
def test_published_levels_of_first_stages(name):
    multiples, attention = STAGES[name]
    stage = FIRST_STAGES[name]
    assert stage.block_out_channels == tuple(128 * m for m in multiples)
    attends = tuple(256 // 2**level in attention for level in range(len(multiples)))
    assert stage.attention_levels == (attends if any(attends) else ())
    assert (stage.layers_per_block, stage.norm_eps, stage.scaling_factor) == (2, 1e-6, 1.0)


@pytest.mark.parametrize("name", FIRST_STAGE)
def test_published_models_have_their_first_stage(name):
    scaling = 0.18215 if name == "ldm-text2img-large" else 1.0
    want = replace(FIRST_STAGES[FIRST_STAGE[name]], scaling_factor=scaling)
    assert preset(name).vae == want


@pytest.mark.parametrize("name,width", [("ldm-text2img-large", 1280), ("ldm-text2img256", 640)])
def test_published_text_transformers(name, width):
    """32 layers of 8 heads of 64 over BERT's tokens, four times as wide within."""
    text = preset(name).text_encoder
    assert (text.model_type, text.vocab_size, text.hidden_act) == ("ldmbert", 30522, "gelu")
    assert (text.num_hidden_layers, text.num_attention_heads, text.head_dim) == (32, 8, 64)
    assert (text.hidden_size, text.intermediate_size) == (width, 4 * width)
    assert text.max_position_embeddings == 77


def test_a_class_is_one_token():
    text = preset("ldm-imagenet").text_encoder
    assert (text.model_type, text.vocab_size, text.hidden_size) == ("class", 1001, 512)
    assert text.max_position_embeddings == text.num_hidden_layers == text.num_attention_heads == 1


CONCAT = {
    "ldm-inpainting": "masked_image",
    "ldm-superres": "low_resolution",
    "ldm-semantic": "segmentation",
}


@pytest.mark.parametrize("name", UNETS)
def test_published_ways_to_draw(name):
    """DDIM from 50 timesteps, or 100 for super-resolution."""
    config = preset(name)
    assert config.name == name and config.concat == CONCAT.get(name, "")
    assert config.segmentation_classes == (182 if name == "ldm-semantic" else 0)
    assert config.defaults.steps == (100 if name == "ldm-superres" else 50)
    assert (config.defaults.width, config.defaults.height) == (256, 256)
    scheduler = config.scheduler
    assert (scheduler.sampler, scheduler.spacing, scheduler.steps_offset) == ("ddim", "leading", 1)
    assert (scheduler.final_sigma, scheduler.convention) == ("sigma_min", "")


# -- all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_guidance_and_sizes_that_no_preset_changes(name):
    config = preset(name)
    assert config.name == name
    assert config.defaults.inpaint_cfg_scale == (7.5 if name == "sdxl" else 0.0)
    assert config.defaults.one_size == (name in ("emoji", "emoji-128"))
    assert config.zero_empty_negative == (name == "sdxl")
    own = {"tiny": (4, 2.0, 16), "emoji": (20, 2.5, 64)}
    if name in own:
        defaults = config.defaults
        assert (defaults.steps, defaults.cfg_scale, defaults.width) == own[name]
        assert defaults.height == defaults.width
