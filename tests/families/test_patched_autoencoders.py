"""Autoencoders of FLUX.2, Qwen-Image and Qwen-Image 2.1: limits of numbers, and configurations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.errors import CorruptModelError
from ldmref.families.autoencoders import flux2, qwen_image, qwen_image_21
from ldmref.families.autoencoders import qwen_image_21_config as of_21
from ldmref.families.autoencoders.flux2 import FLUX2_AUTOENCODER, Flux2AutoencoderConfig
from ldmref.families.autoencoders.qwen_image import QWEN_IMAGE, QwenAutoencoderConfig
from ldmref.families.autoencoders.qwen_image_21_config import QwenImage21AutoencoderConfig
from ldmref.models.params import Params, flatten, unflatten
from ldmref.ports.autoencoders import describe_flux2, describe_qwen_image, describe_qwen_image_21

OPS = get_backend("numpy", dtype="float64")
HALF = get_backend("numpy", dtype="float16")
SMALL = QwenAutoencoderConfig(
    latent_channels=3,
    base_dim=4,
    dim_mult=(1, 2, 4),
    num_res_blocks=1,
    latents_mean=(0.5, -1.0, 2.0),
    latents_std=(2.0, 0.5, 4.0),
)
SMALL_21 = QwenImage21AutoencoderConfig(
    latent_channels=3,
    base_dim=2,
    decoder_base_dim=3,
    dim_mult=(1, 2, 2),
    num_res_blocks=1,
    temporal_downsample=(False, True),
    latents_mean=(0.5, -1.0, 2.0),
    latents_std=(2.0, 0.5, 4.0),
)
SMALL_2 = Flux2AutoencoderConfig(
    latent_channels=8, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2
)


# -- layers ---------------------------------------------------------------------------------------


def test_a_norm_of_half_precision_is_computed_in_more():
    x = np.full((1, 64, 1, 1), 200.0, np.float16)  # whose squares add up to more than 65504
    found = qwen_image.norm(HALF, Params({"gamma": np.ones((64, 1, 1, 1), np.float16)}), x)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, np.ones_like(x), rtol=1e-3)


@pytest.mark.parametrize("bias", [0.25, 0.75, 1.5, -0.75, -1.5])
@pytest.mark.parametrize(
    ("kind", "config"),
    [(QWEN_IMAGE, SMALL), (qwen_image_21.AUTOENCODER, SMALL_21)],
    ids=["qwen-image", "qwen-image-2.1"],
)
def test_images_are_cut_at_one(kind, config, bias):
    flat = {name: np.zeros(shape) for name, shape in flatten(kind.spec(config)).items()}
    flat["decoder.conv_out.bias"] += bias
    found = kind.decode(OPS, unflatten(flat), config, np.zeros((1, 3, 2, 3)))
    assert found.shape == (1, config.out_channels, 8, 12)
    assert np.unique(found).tolist() == [min(max(bias, -1.0), 1.0)]


@pytest.mark.parametrize("bias", [-31.0, -29.5, 19.5, 21.0])
@pytest.mark.parametrize(
    ("kind", "config"),
    [(QWEN_IMAGE, SMALL), (qwen_image_21.AUTOENCODER, SMALL_21)],
    ids=["qwen-image", "qwen-image-2.1"],
)
def test_the_first_channels_are_the_mean(kind, config, bias):
    flat = {name: np.zeros(shape) for name, shape in flatten(kind.spec(config)).items()}
    flat["quant_conv.bias"] = np.array([1.0, 50.0, -60.0, bias, bias, bias])
    image = np.zeros((1, config.in_channels, 8, 12))
    mean, logvar = kind.encode(OPS, unflatten(flat), config, image)
    assert mean.shape == logvar.shape == (1, 3, 2, 3)
    assert mean[0, :, 0, 0].tolist() == [1.0, 50.0, -60.0]
    assert np.unique(logvar).tolist() == [min(max(bias, -30.0), 20.0)]


def test_latents_of_flux2_are_normalised_by_running_statistics():
    generator = np.random.default_rng(4)
    mean, variance = generator.standard_normal(8), generator.uniform(0.1, 2.0, 8)
    p = unflatten({"bn.running_mean": mean, "bn.running_var": variance})
    config = replace(SMALL_2, batch_norm_eps=0.5)
    deviation = np.sqrt(variance + 0.5).reshape(8, 1, 1)
    z = generator.standard_normal((2, 8, 3, 2))
    latents = FLUX2_AUTOENCODER.normalize(OPS, p, config, z)
    np.testing.assert_allclose(latents, (z - mean.reshape(8, 1, 1)) / deviation, rtol=1e-12)
    back = FLUX2_AUTOENCODER.denormalize(OPS, p, config, latents)
    np.testing.assert_allclose(back, z, rtol=1e-10)
    np.testing.assert_allclose(FLUX2_AUTOENCODER.spread(OPS, p, config), 1.0 / deviation)


# -- configurations of diffusers ------------------------------------------------------------------


def test_configurations_of_flux2_are_read():
    assert flux2.read_config({}) == Flux2AutoencoderConfig()
    assert flux2.read_config({"patch_size": (2, 2)}) == Flux2AutoencoderConfig()
    found = flux2.read_config(
        {
            "latent_channels": 2,
            "block_out_channels": [4, 8],
            "layers_per_block": 1,
            "norm_num_groups": 2,
            "act_fn": "silu",
            "patch_size": [2, 2],
            "decoder_block_out_channels": None,
        }
    )
    assert found == SMALL_2
    made = describe_flux2(SMALL_2)
    assert made.path == "diffusers:AutoencoderKLFlux2" and made.like == SMALL_2
    assert isinstance(made.settings["latent_channels"], int)
    narrow = flux2.read_config({"decoder_block_out_channels": [96, 192, 384, 384]})
    assert narrow == Flux2AutoencoderConfig(decoder_block_out_channels=(96, 192, 384, 384))
    made_narrow = describe_flux2(narrow).settings
    assert made_narrow["decoder_block_out_channels"] == (96, 192, 384, 384)
    assert FLUX2_AUTOENCODER.shrink(narrow).decoder_block_out_channels == (4, 8)
    assert made.settings == {
        "latent_channels": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "patch_size": (2, 2),
    }
    small = FLUX2_AUTOENCODER.shrink(Flux2AutoencoderConfig(batch_norm_eps=0.5))
    assert small == Flux2AutoencoderConfig(
        latent_channels=16,
        block_out_channels=(8, 12),
        layers_per_block=1,
        norm_num_groups=4,
        batch_norm_eps=0.5,
    )


@pytest.mark.parametrize(
    ("read", "name", "value"),
    [
        (flux2.read_config, "act_fn", "gelu"),
        (flux2.read_config, "patch_size", [1, 1]),
        (qwen_image.read_config, "attn_scales", [1.0]),
        (qwen_image.read_config, "dropout", 0.5),
        (of_21.read_config, "attn_scales", [1.0]),
        (of_21.read_config, "dropout", 0.5),
        (of_21.read_config, "is_residual", False),
        (of_21.read_config, "patch_size", 2),
    ],
)
def test_other_autoencoders_are_refused(read, name, value):
    with pytest.raises(CorruptModelError, match=name) as caught:
        read({name: value})
    assert "autoencoder" in str(caught.value)


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (flux2.read_config, "layers_per_block"),
        (qwen_image.read_config, "num_res_blocks"),
        (of_21.read_config, "num_res_blocks"),
    ],
)
def test_a_field_of_another_type_is_named(read, name):
    with pytest.raises(CorruptModelError, match=rf"vae\.{name}"):
        read({name: "two"})


def test_configurations_of_qwen_image_are_read():
    assert qwen_image.read_config({"attn_scales": (), "dropout": 0}) == QwenAutoencoderConfig()
    data = {
        "attn_scales": [], "dropout": 0.0, "z_dim": 3, "base_dim": 4, "dim_mult": [1, 2, 4],
        "num_res_blocks": 1, "latents_mean": [0.5, -1.0, 2.0], "latents_std": [2.0, 0.5, 4.0],
        "input_channels": 4,
    }  # fmt: skip
    assert qwen_image.read_config(data) == replace(SMALL, in_channels=4, out_channels=4)
    made = describe_qwen_image(SMALL)
    assert made.path == "diffusers:AutoencoderKLQwenImage" and made.like == SMALL
    assert made.settings == {
        "z_dim": 3,
        "dim_mult": [1, 2, 4],
        "temperal_downsample": [False, False],
    }
    small = QWEN_IMAGE.shrink(QwenAutoencoderConfig(in_channels=5))
    assert small == QwenAutoencoderConfig(
        in_channels=5,
        latent_channels=4,
        base_dim=8,
        dim_mult=(1, 2),
        num_res_blocks=1,
        latents_mean=(-0.7571, -0.7089, -0.9113, 0.1075),
        latents_std=(2.8184, 1.4541, 2.3275, 2.6558),
    )


def test_configurations_of_qwen_image_21_are_read():
    plain = {"attn_scales": (), "dropout": 0.0, "is_residual": True, "patch_size": 1}
    assert of_21.read_config(plain) == QwenImage21AutoencoderConfig()
    assert of_21.read_config({"attn_scales": [], "patch_size": None}) == of_21.read_config({})
    data = {
        "z_dim": 3,
        "base_dim": 2,
        "decoder_base_dim": 3,
        "dim_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True],
        "latents_mean": [0.5, -1.0, 2.0],
        "latents_std": [2.0, 0.5, 4.0],
    }
    assert of_21.read_config(data) == SMALL_21
    same = of_21.read_config({**data, "decoder_base_dim": None})
    assert same == replace(SMALL_21, decoder_base_dim=2)
    assert of_21.read_config({"decoder_base_dim": None}).decoder_base_dim == 96
    made = describe_qwen_image_21(SMALL_21)
    assert made.path == "diffusers:AutoencoderKLQwenImage21" and made.like == SMALL_21
    assert made.settings == {
        "z_dim": 3,
        "dim_mult": [1, 2, 2],
        "temperal_downsample": [False, True],
    }
    assert of_21.shrink(QwenImage21AutoencoderConfig(in_channels=5)) == replace(
        SMALL_21,
        in_channels=5,
        latent_channels=4,
        base_dim=8,
        decoder_base_dim=12,
        latents_mean=(0.5126, 0.7721, -0.0631, 1.3506),
        latents_std=(3.2001, 3.2936, 3.4321, 3.0091),
    )


# -- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"temporal_downsample": (True, True)}, []),
        ({"temporal_downsample": (True,)}, ["an entry for each level"]),
        ({"temporal_downsample": (False,) * 3, "dim_mult": (1, 7, 5)}, ["an entry for each"]),
        ({"dim_mult": (1, 2, 4)}, ["as wide as"]),
        ({"dim_mult": (1, 4, 4), "temporal_downsample": (False, False)}, []),
        ({"dim_mult": (1, 8, 8), "temporal_downsample": (False, False)},
         ["encoder's shortcut cannot make 16 channels of 2", "decoder's shortcut cannot make 3 "]),
        ({"dim_mult": (1, 8, 8), "temporal_downsample": (False, True)},
         ["decoder's shortcut cannot make 3 channels of 24"]),
        ({"dim_mult": (1, 1, 8, 8), "temporal_downsample": (True, False, True)}, []),
        ({"dim_mult": (1, 1, 8, 8), "temporal_downsample": (False, True, True)},
         ["decoder's shortcut cannot make 3 channels of 24"]),
        ({"dim_mult": (1, 1, 8, 8), "temporal_downsample": (True, True, False)},
         ["encoder's shortcut cannot make 16 channels of 2"]),
        ({"dim_mult": (2, 3, 3), "temporal_downsample": (True, True)},
         ["encoder's shortcut cannot make", "decoder's shortcut cannot make 6 channels of 9"]),
    ],
)  # fmt: skip
def test_shortcuts_divide_channels(changes, words):
    found = [*of_21.broken_rules(replace(SMALL_21, **changes))]
    assert len(found) == len(words), found
    assert all(word in rule for rule, word in zip(found, words, strict=True)), found
