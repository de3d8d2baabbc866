"""Autoencoders of FLUX.2, Qwen-Image and Qwen-Image 2.1: small numbers, shapes, names and rules."""

from __future__ import annotations

import math
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
from ldmref.io.key_table import KeyEntry
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


def conv(name, c_in, c_out, kernel=3):
    return {f"{name}.weight": (c_out, c_in, kernel, kernel), f"{name}.bias": (c_out,)}


def residual(name, c_in, c_out):
    """Return the shapes of a residual block."""
    found = {f"{name}.norm1.gamma": (c_in, 1, 1, 1), f"{name}.norm2.gamma": (c_out, 1, 1, 1)}
    found |= conv(f"{name}.conv1", c_in, c_out) | conv(f"{name}.conv2", c_out, c_out)
    return found | (conv(f"{name}.conv_shortcut", c_in, c_out, 1) if c_in != c_out else {})


def ends(wide, z, narrow, first, images):
    """Return the shapes around the levels: widths of the middle, of z and of both ends."""
    found = conv("encoder.conv_in", images, first) | conv("encoder.conv_out", wide, 2 * z)
    found |= conv("quant_conv", 2 * z, 2 * z, 1) | conv("post_quant_conv", z, z, 1)
    found |= {"encoder.norm_out.gamma": (wide, 1, 1, 1)}
    return found | middle("encoder.mid_block", wide) | conv("decoder.conv_out", narrow, images)


def middle(name, c):
    """Return the shapes of the blocks in the middle."""
    found = residual(f"{name}.resnets.0", c, c) | residual(f"{name}.resnets.1", c, c)
    found |= {f"{name}.attentions.0.norm.gamma": (c, 1, 1)}
    found |= conv(f"{name}.attentions.0.to_qkv", c, 3 * c, 1)
    return found | conv(f"{name}.attentions.0.proj", c, c, 1)


# -- shapes ---------------------------------------------------------------------------------------


def test_shapes_of_qwen_image():
    """The encoder is one row of layers; its decoder halves the channels where it doubles sides."""
    want = ends(16, 3, 4, 4, 3) | middle("decoder.mid_block", 16)
    want |= conv("decoder.conv_in", 3, 16) | {"decoder.norm_out.gamma": (4, 1, 1, 1)}
    down, up = "encoder.down_blocks", "decoder.up_blocks"
    want |= residual(f"{down}.0", 4, 4) | conv(f"{down}.1.resample.1", 4, 4)
    want |= residual(f"{down}.2", 4, 8) | conv(f"{down}.3.resample.1", 8, 8)
    want |= residual(f"{down}.4", 8, 16)
    for level, c in enumerate((16, 8, 4)):
        want |= residual(f"{up}.{level}.resnets.0", c, c)
        want |= residual(f"{up}.{level}.resnets.1", c, c)
        if level < 2:
            want |= conv(f"{up}.{level}.upsamplers.0.resample.1", c, c // 2)
    assert flatten(qwen_image.spec(SMALL)) == want


def test_shapes_of_qwen_image_21():
    config = replace(SMALL_21, dim_mult=(3, 2, 5))
    want = ends(10, 3, 9, 2, 4) | middle("decoder.mid_block", 15)
    want |= conv("decoder.conv_in", 3, 15) | {"decoder.norm_out.gamma": (9, 1, 1, 1)}
    down, up = "encoder.down_blocks", "decoder.up_blocks"
    for level, (c_in, c_out) in enumerate(((2, 6), (6, 4), (4, 10))):
        want |= residual(f"{down}.{level}.resnets.0", c_in, c_out)
        if level < 2:
            want |= conv(f"{down}.{level}.downsampler.resample.1", c_out, c_out)
    for level, (c_in, c_out) in enumerate(((15, 15), (15, 6), (6, 9))):
        want |= residual(f"{up}.{level}.resnets.0", c_in, c_out)
        want |= residual(f"{up}.{level}.resnets.1", c_out, c_out)
        if level < 2:
            want |= conv(f"{up}.{level}.upsampler.resample.1", c_out, c_out)
    assert flatten(qwen_image_21.autoencoder_spec(config)) == want


def test_sizes_of_configurations():
    assert (SMALL.kind, SMALL.factor, SMALL.decoder_width) == ("qwen-image", 4, 4)
    assert replace(SMALL, dim_mult=(3, 2)).decoder_width == 12
    assert QwenAutoencoderConfig().factor == 8
    assert (SMALL_21.kind, SMALL_21.factor, SMALL_21.decoder_width) == ("qwen-image-2.1", 4, 6)
    assert SMALL_21.encoder_dims == (2, 2, 4, 4) and SMALL_21.decoder_dims == (6, 6, 6, 3)
    assert SMALL_21.frames == (1, 2, 1)
    deep = replace(SMALL_21, dim_mult=(1, 2, 4, 4))
    assert (deep.factor, deep.decoder_width) == (8, 6)
    assert (SMALL_2.kind, SMALL_2.factor, SMALL_2.patch) == ("flux2", 4, 2)
    assert SMALL_2.decoder_width == SMALL_2.kl.decoder_width
    assert flatten(flux2.spec(SMALL_2))["bn.running_mean"] == (8,)
    assert flatten(flux2.spec(SMALL_2))["bn.running_var"] == (8,)
    assert flatten(flux2.spec(SMALL_2))["decoder.conv_in.weight"] == (8, 2, 3, 3)


@pytest.mark.parametrize(
    "name", ["use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"]
)
def test_the_kl_within_flux2_has_its_fields(name):
    config = replace(SMALL_2, in_channels=5, out_channels=6)
    want = (5, 6, 2, (4, 8), 1, 2)
    kl = config.kl
    assert isinstance(kl.latent_channels, int)
    assert want == (
        kl.in_channels,
        kl.out_channels,
        kl.latent_channels,
        kl.block_out_channels,
        kl.layers_per_block,
        kl.norm_num_groups,
    )
    assert getattr(kl, name) and not getattr(replace(config, **{name: False}).kl, name)


# -- layers ---------------------------------------------------------------------------------------


def unit(x, gamma, least=1e-12):
    """Scale the channels of each pixel to the length sqrt(c), times gamma."""
    length = np.sqrt((x * x).sum(1, keepdims=True))
    return x / np.maximum(length, least) * math.sqrt(x.shape[1]) * gamma.reshape(-1, 1, 1)


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-11, 3e-13, 0.0])
def test_a_norm_has_the_length_of_the_channels(size):
    """Shorter vectors than 1e-12 are divided by that."""
    x = size * np.random.default_rng(0).standard_normal((2, 4, 3, 5))
    gamma = np.array([1.0, 2.0, -0.5, 3.0])
    found = qwen_image.norm(OPS, Params({"gamma": gamma.reshape(4, 1, 1, 1)}), x)
    np.testing.assert_allclose(found, unit(x, gamma), rtol=1e-12)


def test_a_norm_of_half_precision_is_computed_in_more():
    x = np.full((1, 64, 1, 1), 200.0, np.float16)  # whose squares add up to more than 65504
    found = qwen_image.norm(HALF, Params({"gamma": np.ones((64, 1, 1, 1), np.float16)}), x)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, np.ones_like(x), rtol=1e-3)


def test_attention_has_one_head_of_all_pixels():
    generator = np.random.default_rng(1)
    flat = {
        "norm.gamma": generator.standard_normal((4, 1, 1)),
        "to_qkv.weight": generator.standard_normal((12, 4, 1, 1)),
        "to_qkv.bias": generator.standard_normal(12),
        "proj.weight": generator.standard_normal((4, 4, 1, 1)),
        "proj.bias": generator.standard_normal(4),
    }
    x = generator.standard_normal((2, 4, 2, 3))
    h = unit(x, flat["norm.gamma"].reshape(-1)).reshape(2, 4, 6)
    rows = np.einsum("oc,ncl->nlo", flat["to_qkv.weight"][:, :, 0, 0], h) + flat["to_qkv.bias"]
    q, k, v = rows[..., :4], rows[..., 4:8], rows[..., 8:]
    scores = np.exp(q @ k.swapaxes(1, 2) / 2.0)
    mixed = scores / scores.sum(-1, keepdims=True) @ v
    out = np.einsum("oc,nlc->nol", flat["proj.weight"][:, :, 0, 0], mixed)
    want = x + (out + flat["proj.bias"][:, None]).reshape(x.shape)
    found = qwen_image.attention_block(OPS, unflatten(flat), x)
    np.testing.assert_allclose(found, want, rtol=1e-10)


def test_layers_that_halve_and_double_an_image():
    """Of a convolution that takes the pixel in the middle, or the one right below it."""
    weight = np.zeros((1, 1, 3, 3))
    weight[0, 0, 2, 2] = 1.0
    p = unflatten({"resample.1.weight": weight, "resample.1.bias": np.array([0.5])})
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    want = np.array([[10.0, 0.0], [0.0, 0.0]]) + 0.5  # padded on the right and at the bottom
    assert np.array_equal(qwen_image.downsample(OPS, p, x)[0, 0], want)
    twice = np.kron(x[0, 0], np.ones((2, 2)))
    shifted = np.zeros((8, 8))
    shifted[:-1, :-1] = twice[1:, 1:]
    assert np.array_equal(qwen_image.upsample(OPS, p, x)[0, 0], shifted + 0.5)


def test_a_shortcut_is_a_convolution_where_the_width_changes():
    generator = np.random.default_rng(2)
    x = generator.standard_normal((1, 2, 3, 3))
    for width in (2, 4):
        shapes = flatten(qwen_image.block_spec(2, width))
        flat = {name: np.zeros(shape) for name, shape in shapes.items()}
        flat["conv2.bias"] = np.arange(1.0, 1.0 + width)
        want = x
        if width == 4:
            matrix = generator.standard_normal((4, 2, 1, 1))
            flat["conv_shortcut.weight"] = matrix
            want = np.einsum("oc,nchw->nohw", matrix[:, :, 0, 0], x)
        found = qwen_image.residual_block(OPS, unflatten(flat), x)
        np.testing.assert_allclose(found, want + flat["conv2.bias"].reshape(-1, 1, 1), rtol=1e-12)


def shrink_by_hand(x, width, frames):
    """Average groups of the numbers of 2 x 2 pixels; frames before the only one are zeros."""
    n, c, height, columns = x.shape
    found = np.zeros((n, width, height // 2, columns // 2))
    for i in range(height // 2):
        for j in range(columns // 2):
            numbers = np.zeros((n, c, frames, 2, 2))
            numbers[:, :, -1] = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            found[:, :, i, j] = numbers.reshape(n, width, -1).mean(axis=2)
    return found


def enlarge_by_hand(x, width, frames):
    """Repeat channels to the numbers of 2 x 2 pixels of all frames, and keep the last frame."""
    n, c, h, w = x.shape
    found = np.zeros((n, width, 2 * h, 2 * w))
    for i in range(h):
        for j in range(w):
            numbers = np.repeat(x[:, :, i, j], 4 * frames * width // c, axis=1)
            pixels = numbers.reshape(n, width, frames, 2, 2)[:, :, -1]
            found[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = pixels
    return found


@pytest.mark.parametrize(("width", "frames"), [(3, 1), (3, 2), (6, 1), (12, 2), (24, 1), (48, 2)])
def test_shortcuts_that_halve_an_image(width, frames):
    x = np.random.default_rng(5).standard_normal((2, 6, 4, 6))
    want = shrink_by_hand(x, width, frames)
    np.testing.assert_allclose(qwen_image_21.shrink_image(x, width, frames), want, atol=1e-12)


@pytest.mark.parametrize(
    ("width", "frames"), [(8, 1), (8, 2), (4, 1), (4, 2), (2, 1), (2, 2), (1, 2), (8, 4)]
)
def test_shortcuts_that_double_an_image(width, frames):
    x = np.random.default_rng(6).standard_normal((2, 8, 3, 2))
    want = enlarge_by_hand(x, width, frames)
    assert np.array_equal(qwen_image_21.enlarge_image(x, width, frames), want)


def test_levels_add_their_shortcuts():
    """Of residual blocks that add nothing."""
    x = np.random.default_rng(7).standard_normal((1, 2, 4, 4))
    spec = qwen_image_21.residual_blocks_spec(2, 2, 2)
    assert [*spec["resnets"]] == ["0", "1"]
    flat = {name: np.zeros(shape) for name, shape in flatten(spec).items()}
    same = {"resample.1.weight": np.zeros((2, 2, 3, 3)), "resample.1.bias": np.array([0.5, 2.0])}
    bias = np.array([0.5, 2.0]).reshape(2, 1, 1)
    plain = unflatten(flat)
    np.testing.assert_allclose(qwen_image_21.down_block(OPS, plain, x, 1), 2 * x)
    np.testing.assert_allclose(qwen_image_21.up_block(OPS, plain, x, 1), x)
    down = unflatten(flat | {f"downsampler.{name}": value for name, value in same.items()})
    up = unflatten(flat | {f"upsampler.{name}": value for name, value in same.items()})
    for frames in (1, 2):
        want = bias + shrink_by_hand(x, 2, frames)
        np.testing.assert_allclose(qwen_image_21.down_block(OPS, down, x, frames), want)
        want = bias + enlarge_by_hand(x, 2, frames)
        np.testing.assert_allclose(qwen_image_21.up_block(OPS, up, x, frames), want)


def test_levels_join_frames_in_the_order_of_the_configuration(monkeypatch):
    config = replace(SMALL_21, dim_mult=(1, 2, 2, 2), temporal_downsample=(False, True, True))
    spec = qwen_image_21.autoencoder_spec(config)
    p = unflatten({name: np.zeros(shape) for name, shape in flatten(spec).items()})
    found = {"down_block": [], "up_block": []}
    for name, seen in found.items():
        function = getattr(qwen_image_21, name)

        def record(ops, p, x, frames, function=function, seen=seen):
            seen.append(frames)
            return function(ops, p, x, frames)

        monkeypatch.setattr(qwen_image_21, name, record)
    qwen_image_21.encode(OPS, p, config, np.zeros((1, 4, 8, 8)))
    qwen_image_21.decode(OPS, p, config, np.zeros((1, 3, 1, 1)))
    assert found == {"down_block": [1, 2, 2, 1], "up_block": [2, 2, 1, 1]}


@pytest.mark.parametrize(
    ("kind", "config"),
    [(QWEN_IMAGE, SMALL), (qwen_image_21.AUTOENCODER, SMALL_21)],
    ids=["qwen-image", "qwen-image-2.1"],
)
def test_latents_are_less_the_mean_over_the_deviation(kind, config):
    mean, std = (np.array(x).reshape(3, 1, 1) for x in (config.latents_mean, config.latents_std))
    z = np.random.default_rng(3).standard_normal((2, 3, 2, 2))
    latents = kind.normalize(OPS, Params({}), config, z)
    np.testing.assert_allclose(latents, (z - mean) / std, rtol=1e-14)
    np.testing.assert_allclose(kind.denormalize(OPS, Params({}), config, latents), z, rtol=1e-12)
    assert np.array_equal(kind.spread(OPS, Params({}), config), 1.0 / std)


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


# -- names in files -------------------------------------------------------------------------------


MAKERS = {  # Wan-Video/Wan2.1, wan/modules/vae.py, of three levels with one block each
    "encoder.conv_in.weight": "encoder.conv1.weight",
    "encoder.down_blocks.0.norm1.gamma": "encoder.downsamples.0.residual.0.gamma",
    "encoder.down_blocks.0.conv1.bias": "encoder.downsamples.0.residual.2.bias",
    "encoder.down_blocks.1.resample.1.weight": "encoder.downsamples.1.resample.1.weight",
    "encoder.down_blocks.2.norm2.gamma": "encoder.downsamples.2.residual.3.gamma",
    "encoder.down_blocks.2.conv_shortcut.bias": "encoder.downsamples.2.shortcut.bias",
    "encoder.down_blocks.4.conv2.weight": "encoder.downsamples.4.residual.6.weight",
    "encoder.mid_block.resnets.0.norm1.gamma": "encoder.middle.0.residual.0.gamma",
    "encoder.mid_block.attentions.0.norm.gamma": "encoder.middle.1.norm.gamma",
    "encoder.mid_block.attentions.0.to_qkv.weight": "encoder.middle.1.to_qkv.weight",
    "encoder.mid_block.resnets.1.conv2.bias": "encoder.middle.2.residual.6.bias",
    "encoder.norm_out.gamma": "encoder.head.0.gamma",
    "encoder.conv_out.bias": "encoder.head.2.bias",
    "quant_conv.weight": "conv1.weight",
    "post_quant_conv.bias": "conv2.bias",
    "decoder.conv_in.weight": "decoder.conv1.weight",
    "decoder.mid_block.resnets.0.conv1.weight": "decoder.middle.0.residual.2.weight",
    "decoder.mid_block.attentions.0.proj.bias": "decoder.middle.1.proj.bias",
    "decoder.mid_block.resnets.1.norm2.gamma": "decoder.middle.2.residual.3.gamma",
    "decoder.up_blocks.0.resnets.0.conv1.weight": "decoder.upsamples.0.residual.2.weight",
    "decoder.up_blocks.0.resnets.1.conv1.weight": "decoder.upsamples.1.residual.2.weight",
    "decoder.up_blocks.0.upsamplers.0.resample.1.bias": "decoder.upsamples.2.resample.1.bias",
    "decoder.up_blocks.1.resnets.0.norm1.gamma": "decoder.upsamples.3.residual.0.gamma",
    "decoder.up_blocks.1.upsamplers.0.resample.1.bias": "decoder.upsamples.5.resample.1.bias",
    "decoder.up_blocks.2.resnets.1.conv2.bias": "decoder.upsamples.7.residual.6.bias",
    "decoder.norm_out.gamma": "decoder.head.0.gamma",
    "decoder.conv_out.weight": "decoder.head.2.weight",
}


def test_names_of_the_makers_of_qwen_image():
    table = QWEN_IMAGE.original(SMALL)
    assert {name: table[name].name for name in MAKERS} == MAKERS
    assert table.keys() == flatten(qwen_image.spec(SMALL)).keys()
    assert len({entry.name for entry in table.values()}) == len(table)
    levels = QWEN_IMAGE.original(replace(SMALL, num_res_blocks=2))
    last = levels["decoder.up_blocks.2.resnets.2.conv1.bias"]
    assert last.name == "decoder.upsamples.10.residual.2.bias"
    down = levels["encoder.down_blocks.7.conv1.bias"]
    assert down.name == "encoder.downsamples.7.residual.2.bias"


FRAMES = {  # of kernels, whose first axis after the channels is time
    "encoder.conv_in.weight": 3,
    "encoder.conv_in.bias": None,
    "encoder.norm_out.gamma": None,
    "encoder.down_blocks.2.conv_shortcut.weight": 1,
    "encoder.down_blocks.2.norm1.gamma": None,
    "encoder.down_blocks.1.resample.1.weight": None,
    "encoder.mid_block.attentions.0.to_qkv.weight": None,
    "encoder.mid_block.resnets.0.conv1.weight": 3,
    "quant_conv.weight": 1,
    "decoder.conv_out.weight": 3,
}


def test_kernels_have_frames_except_those_of_two_dimensions():
    shapes = flatten(qwen_image.spec(SMALL))
    ours = {name: KeyEntry(name, shape) for name, shape in shapes.items()}
    want = {name: count or 0 for name, count in FRAMES.items()}
    for table in (QWEN_IMAGE.stored(SMALL, ours), QWEN_IMAGE.original(SMALL)):
        assert {name: table[name].frames for name in FRAMES} == want
    assert [*QWEN_IMAGE.stored(SMALL, ours)] == [*ours]


def test_names_of_the_makers_of_flux2():
    table = FLUX2_AUTOENCODER.original(SMALL_2)
    named = {
        "quant_conv.weight": "encoder.quant_conv.weight",
        "post_quant_conv.bias": "decoder.post_quant_conv.bias",
        "encoder.conv_in.weight": "encoder.conv_in.weight",
        "bn.running_mean": "bn.running_mean",
        "bn.running_var": "bn.running_var",
    }
    assert {name: table[name].name for name in named} == named
    assert table["bn.running_mean"].shape == table["bn.running_var"].shape == (8,)
    assert table.keys() == flatten(flux2.spec(SMALL_2)).keys()


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
    ("rules", "config"), [(qwen_image.broken_rules, SMALL), (of_21.broken_rules, SMALL_21)]
)
def test_each_channel_has_a_mean_and_a_positive_deviation(rules, config):
    def broken(**changes):
        return [rule.split()[0] for rule in rules(replace(config, **changes))]

    assert broken() == [] == broken(latents_std=(1e-3, 1.0, 1.0))
    assert broken(latents_mean=(1.0,)) == ["vae.latents_mean"]
    assert broken(latents_std=(1.0,) * 4) == ["vae.latents_std"]
    assert broken(latents_std=(0.0, 1.0, 1.0)) == ["vae.latents_std"]
    assert broken(latents_std=(1.0, 1.0, -0.5)) == ["vae.latents_std"]


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


def test_the_rules_of_kl_hold_within_flux2():
    assert not [*flux2.broken_rules(SMALL_2)]
    assert [*flux2.broken_rules(replace(SMALL_2, norm_num_groups=3))]
    for widths, words in (((4,), "an entry per level"), ((4, 7), "of the decoder")):
        (rule,) = flux2.broken_rules(replace(SMALL_2, decoder_block_out_channels=widths))
        assert words in rule
