"""Presets against what was published of the models, and what a model keeps between images."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.errors import LdmrefError
from ldmref.models.memory import estimate_memory
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import count, init
from ldmref.models.presets import PRESETS, preset
from ldmref.models.presets_ldm import FIRST_STAGES
from ldmref.models.validate import check_config

CLIP_L = 123_060_480
KL_F8 = 83_653_863
VQ_F4 = 55_322_782
# Parameters of the published weights, as diffusers, transformers and CompVis' logs count them; of
# our own two, whose random weights belong to a seed.
SIZES = {
    "tiny": (203_204, 43_711, 34_048),
    "emoji": (8_981_552, 2_091_651, 1_483_008),
    "sd15": (859_520_964, KL_F8, CLIP_L),
    "sd15-inpainting": (859_535_364, KL_F8, CLIP_L),
    "sd2-base": (865_910_724, KL_F8, 340_387_840),
    "sd2-v": (865_910_724, KL_F8, 340_387_840),
    "sd2-inpainting": (865_925_124, KL_F8, 340_387_840),
    "sdxl": (2_567_463_684, KL_F8, CLIP_L, 694_659_840),
    "ldm-unconditional": (274_056_163, VQ_F4),
    "ldm-churches": (294_966_916, KL_F8),
    "ldm-imagenet": (400_920_579, VQ_F4, 1001 * 512),
    "ldm-text2img-large": (872_300_484, KL_F8, 542_895_360),
    "ldm-inpainting": (387_245_827, 53_219_486),
    "ldm-superres": (113_622_563, VQ_F4),
}
# The number of parameters does not show prediction, activations of the text encoders, and size.
CONFIGURATIONS = {
    "sd15": ("eps", ["quick_gelu"], 512),
    "sd15-inpainting": ("eps", ["quick_gelu"], 512),
    "sd2-base": ("eps", ["gelu"], 512),
    "sd2-v": ("v", ["gelu"], 768),
    "sd2-inpainting": ("eps", ["gelu"], 512),
    "sdxl": ("eps", ["quick_gelu", "gelu"], 1024),
    "ldm-unconditional": ("eps", [], 256),
    "ldm-churches": ("eps", [], 256),
    "ldm-text2img-large": ("eps", ["gelu"], 256),
    "ldm-text2img256": ("eps", ["gelu"], 256),
    "ldm-inpainting": ("eps", [], 256),
}
# linear_start and linear_end in CompVis' configurations; betas are linear in the square root.
BETAS = {
    "sd15": (0.00085, 0.012), "sd2-v": (0.00085, 0.012), "sdxl": (0.00085, 0.012),
    "ldm-unconditional": (0.0015, 0.0195), "ldm-churches": (0.0015, 0.0155),
    "ldm-imagenet": (0.0015, 0.0195), "ldm-text2img-large": (0.00085, 0.012),
    "ldm-text2img256": (0.0015, 0.0195), "ldm-inpainting": (0.0015, 0.0205),
    "ldm-superres": (0.0015, 0.0155), "ldm-semantic": (0.0015, 0.0205),
}  # fmt: skip
# Widths of an attention head, or numbers of heads, and guidance in the makers' scripts.
HEAD_WIDTHS = {
    "sd2-base": 64,
    "sd2-v": 64,
    "sdxl": 64,
    "ldm-unconditional": 32,
    "ldm-text2img256": 32,
    "ldm-superres": 32,
}
HEADS = {
    "sd15": 8, "sd15-inpainting": 8, "ldm-churches": 8, "ldm-imagenet": 1,
    "ldm-text2img-large": 8, "ldm-inpainting": 8, "ldm-semantic": 8,
}  # fmt: skip
GUIDANCE = {
    "sd15": 7.5, "sd2-base": 7.5, "sd2-v": 7.5, "sdxl": 5.0, "ldm-imagenet": 3.0,
    "ldm-text2img-large": 5.0, "ldm-text2img256": 5.0, "ldm-unconditional": 1.0,
    "ldm-churches": 1.0, "ldm-superres": 1.0, "ldm-inpainting": 1.0, "ldm-semantic": 1.0,
}  # fmt: skip
# Factor, size of the codebook, channels: the paper's table of first stages.
STAGES = {
    "vq-f4": (4, 8192, 3), "vq-f4-noattn": (4, 8192, 3), "vq-f8": (8, 16384, 4),
    "vq-f8-n256": (8, 256, 4), "vq-f16": (16, 16384, 8), "kl-f4": (4, 0, 3), "kl-f8": (8, 0, 4),
    "kl-f16": (16, 0, 16), "kl-f32": (32, 0, 64),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_published_numbers_of_parameters(name):
    assert tuple(count(part) for part in model_spec(preset(name)).values()) == SIZES[name]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_published_configurations(name):
    config = preset(name)
    prediction, activations, size = CONFIGURATIONS[name]
    assert config.scheduler.prediction_type == prediction
    assert [text.hidden_act for text in config.text_encoders] == activations
    assert config.defaults.width == config.defaults.height == size


@pytest.mark.parametrize("name", BETAS)
def test_published_betas(name):
    scheduler = preset(name).scheduler
    assert (scheduler.beta_start, scheduler.beta_end) == BETAS[name]
    assert scheduler.beta_schedule == "scaled_linear" and scheduler.num_train_timesteps == 1000


@pytest.mark.parametrize("name", HEAD_WIDTHS | HEADS)
def test_published_attention_heads(name):
    unet = preset(name).unet
    levels = zip(unet.block_out_channels, unet.num_heads, strict=True)
    if name in HEADS:
        assert set(unet.num_heads) == {HEADS[name]}
    else:
        assert {channels / heads for channels, heads in levels} == {HEAD_WIDTHS[name]}


@pytest.mark.parametrize("name", GUIDANCE)
def test_published_guidance(name):
    assert preset(name).defaults.cfg_scale == GUIDANCE[name]


@pytest.mark.parametrize("name", STAGES)
def test_published_first_stages(name):
    stage = FIRST_STAGES[name]
    assert (stage.factor, stage.codebook_size, stage.latent_channels) == STAGES[name]
    channels = stage.block_out_channels
    assert channels[0] == 128 and channels[-1] == 512 and [*channels] == sorted(channels)
    assert stage.mid_block_add_attention == (name != "vq-f4-noattn")


@pytest.mark.parametrize("name", PRESETS)
def test_a_model_draws_at_the_size_that_its_network_was_trained_on(name):
    config = preset(name)
    assert config.unet.sample_size * config.vae.factor == config.defaults.width


def test_sdxl_takes_the_penultimate_layer_of_both_text_encoders():
    first, second = preset("sdxl").text_encoders
    assert [(t.skipped_layers, t.final_norm) for t in (first, second)] == [(1, False)] * 2
    assert (first.projection_dim, second.projection_dim) == (0, 1280)
    assert preset("sdxl").zero_empty_negative and preset("sdxl").unet.addition_embed_type


def test_conditioning_on_sizes_needs_a_pooled_vector():
    """SDXL joins six embedded numbers to the pooled text; without one the widths cannot fit."""
    config = preset("sdxl")
    check_config(config)
    width = config.unet.projection_class_embeddings_input_dim
    assert width == 1280 + 6 * config.unet.addition_time_embed_dim == 2816
    bare = replace(config.text_encoder_2, projection_dim=0)
    for changed in (width, 6 * config.unet.addition_time_embed_dim):
        unet = replace(config.unet, projection_class_embeddings_input_dim=changed)
        with pytest.raises(LdmrefError):
            check_config(replace(config, denoiser=unet, text_encoder_2=bare))


def test_the_preset_of_the_embedded_model_is_its_configuration():
    config = ldmref.load("emoji", backend="numpy").config
    want = preset("emoji-128")
    measured = {"scaling_factor": 1.0, "preview": ()}
    assert replace(config, vae=replace(config.vae, **measured)) == replace(
        want, vae=replace(want.vae, **measured)
    )


def test_norms_begin_as_the_identity():
    params = init({"norm": {"weight": (5,), "bias": (5,)}, "embedding": {"weight": (999, 50)}})
    assert (params.norm.weight == 1.0).all() and (params.norm.bias == 0.0).all()
    assert abs(params.embedding.weight.std() - 0.02) < 0.001


class Counting(NumpyBackend):
    """Counts how often each network is compiled."""

    def set_up(self):
        super().set_up()
        self.compiled = Counter()

    def compile(self, network, params):
        self.compiled[id(params)] += 1
        return super().compile(network, params)


def test_networks_are_compiled_once():
    ops = Counting()
    model = ldmref.random_model("tiny", backend=ops)
    for seed in (1, 2):
        modes.txt2img(model, "a cat", seed=seed, steps=3)
    assert ops.compiled and set(ops.compiled.values()) == {1}


def test_the_memory_to_decode_is_that_of_the_largest_images_channels():
    """The expected peak is no less than what decoding takes, and no more than three times it."""
    tiny = preset("tiny")
    vae = replace(tiny.vae, block_out_channels=(16, 32, 64, 128), scaling_factor=1.0)
    config = replace(tiny, vae=vae, defaults=replace(tiny.defaults, width=64, height=64))
    ops = get_backend("numpy", speed="fast")
    spec = model_spec(config)
    tokenizer = ldmref.random_model("tiny", backend="numpy").tokenizer
    model = LatentDiffusion(ops, config, init(spec), tokenizer)
    latents = ops.asarray(np.zeros((1, 4, 24, 24), np.float32))
    model.decode(latents)
    tracemalloc.start()
    model.decode(latents)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = estimate_memory(spec, config, ops, (192, 192)).decoding
    assert 0.5 * peak <= expected <= 3 * peak, expected / peak
