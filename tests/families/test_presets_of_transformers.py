"""Presets of Flux.1, FLUX.2, FLUX.3, SD3 and Krea 2, and their small versions, made anew."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from declared_values import FOLDER, plain

from ldmref.families.flux import presets as flux
from ldmref.families.flux2 import presets as flux2
from ldmref.families.flux2 import text as flux2_text
from ldmref.families.flux3 import presets as flux3
from ldmref.families.flux3 import text as flux3_text
from ldmref.families.krea2 import presets as krea2
from ldmref.families.krea2 import text as krea2_text
from ldmref.families.qwen3.presets import QWEN3_SIZES
from ldmref.families.sd3 import presets as sd3
from ldmref.models import preset

MAKERS = {"flux": flux, "flux2": flux2, "flux3": flux3, "sd3": sd3, "krea2": krea2}
SMALL = {  # fields of the transformer, then heads and numbers of the texts
    "flux": {
        "out_channels": 4, "sample_size": 8, "num_layers": 2, "num_single_layers": 2,
        "num_attention_heads": 2, "attention_head_dim": 12, "joint_attention_dim": 20,
        "pooled_projection_dim": 16, "axes_dims_rope": (2, 4, 6),
    },
    "flux2": {
        "in_channels": 16, "out_channels": 16, "sample_size": 4, "num_layers": 2,
        "num_single_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16,
        "joint_attention_dim": 60, "timestep_guidance_channels": 32,
        "axes_dims_rope": (4, 4, 4, 4),
    },
    "flux3": {
        "in_channels": 16, "out_channels": 16, "sample_size": 4, "num_layers": 1,
        "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 40, "axes_dims_rope": (4, 4, 4, 4),
    },
    "sd3": {
        "in_channels": 4, "out_channels": 4, "sample_size": 8, "num_attention_heads": 2,
        "attention_head_dim": 8, "joint_attention_dim": 40, "pooled_projection_dim": 24,
        "pos_embed_max_size": 10,
    },
    "krea2": {
        "in_channels": 4, "out_channels": 4, "sample_size": 8, "num_layers": 2,
        "attention_head_dim": 12, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 64, "timestep_embed_dim": 16, "text_hidden_dim": 20,
        "num_text_layers": 3, "text_num_attention_heads": 2, "text_num_key_value_heads": 2,
        "text_intermediate_size": 32, "num_layerwise_text_blocks": 1,
        "num_refiner_text_blocks": 1, "axes_dims_rope": (4, 4, 4),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_presets_are_the_stored_ones(name):
    stored = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["family"]["presets"]
    made = MAKERS[name].make_presets()
    assert {key: config.name for key, config in made.items()} == {key: key for key in stored}
    assert [*made] == [*stored]
    assert json.loads(json.dumps(plain(made))) == stored


@pytest.mark.parametrize("name", MAKERS)
def test_small_models_have_the_sizes_of_golden_cases(name):
    for config in MAKERS[name].make_presets().values():
        small = MAKERS[name].shrink(config)
        kept = vars(config.denoiser) | SMALL[name]
        found = vars(small.denoiser)
        differing = {key for key in kept if kept[key] != found[key]}
        assert differing <= {"in_channels", "num_layers", "dual_attention_layers"}
        usual = small.defaults
        assert (usual.steps, usual.width, usual.height) == (4, 16, 16)
        assert usual.cfg_scale == (4.0 if name == "sd3" else config.defaults.cfg_scale)
        assert (small.name, small.scheduler) == (config.name, config.scheduler)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("flux-dev", 4), ("flux-schnell", 4), ("flux-fill-dev", 12), ("flux-control-dev", 8)],
)
def test_small_models_of_flux1_read_the_images_of_the_large_ones(name, channels):
    small = flux.shrink(preset(name))
    assert (small.denoiser.in_channels, small.denoiser.out_channels) == (channels, 4)
    assert small.concat == preset(name).concat
    assert small.vae.factor == 2
    clip, t5 = small.text_encoders
    assert (clip.hidden_size, t5.hidden_size) == (16, 20)


@pytest.mark.parametrize(
    ("name", "layers", "dual"),
    [("sd3-medium", 2, ()), ("sd35-medium", 3, (0,)), ("sd35-large", 2, ())],
)
def test_small_models_of_sd3_keep_their_kinds_of_blocks(name, layers, dual):
    small = sd3.shrink(preset(name))
    net = small.denoiser
    assert (net.num_layers, net.dual_attention_layers) == (layers, dual)
    assert net.qk_norm == preset(name).denoiser.qk_norm
    assert [text.hidden_size for text in small.text_encoders] == [16, 8, 40]
    two = replace(preset(name), text_encoder_3=None)
    assert [text.hidden_size for text in sd3.shrink(two).text_encoders] == [16, 8]


@pytest.mark.parametrize(
    ("maker", "name", "length", "count", "layers"),
    [
        (flux2, "flux2-klein-4b", 32, 4, (1, 2, 3)),
        (flux3, "flux3-klein", 160, 3, (1, 2)),
        (krea2, "krea-2", 256, 5, (1, 2, 4)),
    ],
)
def test_small_text_encoders(maker, name, length, count, layers):
    text = maker.shrink(preset(name)).text_encoder
    assert (text.max_position_embeddings, text.num_hidden_layers) == (length, count)
    assert text.hidden_layers == layers
    assert text.padding_position == preset(name).text_encoder.padding_position


def test_a_distilled_model_of_krea2_has_few_steps_and_a_constant_shift():
    raw = preset("krea-2-tiny")
    turbo = krea2.as_turbo(raw)
    assert turbo.scheduler == replace(raw.scheduler, shift_rule="constant", max_shift=1.15)
    assert turbo.defaults == replace(raw.defaults, steps=8, cfg_scale=1.0)
    assert replace(turbo, scheduler=raw.scheduler, defaults=raw.defaults) == raw


# -- text encoders --------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [27, 29, 36])
@pytest.mark.parametrize(("said", "read"), [((-1,), (9, 18, 27)), ((1, 2, 3), (1, 2, 3))])
def test_layers_of_the_text_that_flux2_reads(layers, said, read):
    """Of any depth the same as diffusers, unless the encoder's file says others."""
    text = replace(QWEN3_SIZES["qwen3-4b"], num_hidden_layers=layers, hidden_layers=said)
    made = flux2_text.as_text_encoder(text)
    assert made == replace(text, max_position_embeddings=512, hidden_layers=read, final_norm=False)


def test_text_encoders_of_flux3_and_krea2():
    text = QWEN3_SIZES["qwen3-vl-4b"]
    made = flux3_text.as_text_encoder(text)
    assert made == replace(
        text,
        max_position_embeddings=4096,
        hidden_layers=(4, 8, 12, 16, 20, 24, 28, 32),
        final_norm=False,
        padding_position=1,
    )
    made = krea2_text.as_text_encoder(text)
    assert made == replace(
        text,
        max_position_embeddings=546,
        hidden_layers=tuple(range(2, 36, 3)),
        final_norm=False,
        padding_position=-1,
    )
    assert text.final_norm and text.hidden_layers != made.hidden_layers
