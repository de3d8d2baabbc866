"""Parts of the networks by themselves: shapes, defaults, and where each number comes from."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref.backends import get_backend
from ldmref.errors import UsageError
from ldmref.models import autoencoder, layers, rescaler, specs, taesd
from ldmref.models.conditioning import CachedContext, Conditioning, add_cache, join
from ldmref.models.config import AutoencoderConfig
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec, encode_hint, init_from_unet
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import Params, flatten, init, unflatten
from ldmref.models.presets import preset
from ldmref.models.residuals import add_residuals, weigh_residuals
from ldmref.models.tiling import compute_ramps
from ldmref.models.unet import Residuals, unet, unet_spec

OPS = get_backend("numpy", dtype="float64")
TINY = preset("tiny")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def random_params(spec, seed=1):
    """Return parameters with norms and biases that are not one and zero."""
    flat = flatten(spec)
    return unflatten(
        {name: 0.3 * normal(*flat[name], seed=[seed, i]) for i, name in enumerate(flat)}
    )


@pytest.fixture(scope="module")
def tiny():
    return ldmref.random_model("tiny", backend="numpy", dtype="float64")


# -- ControlNet -----------------------------------------------------------------------------------


def test_an_untrained_controlnet_is_the_unet_with_zero_convolutions(tiny):
    """Without effect; what it shares with the U-Net is copied, the hint encoder is random."""
    config = ControlNetConfig(TINY.unet, conditioning_embedding_out_channels=(8, 16))
    p = init_from_unet(tiny.params.unet, config)
    assert flatten(p).keys() == flatten(controlnet_spec(config)).keys()
    for name, x in flatten(p).items():
        shared = flatten(tiny.params.unet).get(name)
        if shared is not None:
            assert (x == shared).all(), name
        elif name.startswith(
            ("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")
        ):
            assert (x == 0.0).all(), name
        else:
            assert name.startswith("controlnet_cond_embedding"), name
    weight = p.controlnet_cond_embedding.conv_in.weight
    assert weight.std() > 0.1
    again, other = (init_from_unet(tiny.params.unet, config, seed) for seed in (0, 1))
    assert (again.controlnet_cond_embedding.conv_in.weight == weight).all()
    assert (other.controlnet_cond_embedding.conv_in.weight != weight).any()


def test_hints_are_halved_between_two_widths():
    config = ControlNetConfig(TINY.unet, 5, (4, 6, 8, 10))
    p = random_params(controlnet_spec(config))
    assert config.factor == 8
    features = encode_hint(OPS, p, normal(2, 5, 16, 24))
    assert features.shape == (2, TINY.unet.block_out_channels[0], 2, 3)
    spec = controlnet_spec(config)["controlnet_cond_embedding"]["blocks"]
    shapes = [block["weight"][:2] for block in spec.values()]
    assert shapes == [(4, 4), (6, 4), (6, 6), (8, 6), (8, 8), (10, 8)]
    net = ControlNet(OPS, config, p)
    assert (net.name, net.sha256) == ("controlnet", "")
    np.testing.assert_array_equal(net.encode_hint(normal(2, 5, 16, 24)), features)


def test_controlnets_add_up_by_weight():
    def residuals(seed):
        return Residuals(
            (normal(1, 2, seed=seed), normal(3, seed=seed + 1)), normal(2, seed=seed + 2)
        )

    a, b, c = (residuals(10 * i) for i in (1, 2, 3))
    assert add_residuals([]) is None
    terms = [weigh_residuals(*term) for term in ((0.5, a), (2.0, b), (-1.0, c))]
    total = add_residuals(terms)
    for got, x, y, z in zip(
        (*total.down, total.mid), (*a.down, a.mid), (*b.down, b.mid), (*c.down, c.mid), strict=True
    ):
        np.testing.assert_allclose(got, 0.5 * x + 2.0 * y - z, rtol=1e-14)


# -- conditioning ---------------------------------------------------------------------------------


def test_conditionings_are_joined_in_order():
    parts = [
        Conditioning(normal(2, 3, 4, seed=i), normal(2, 5, seed=i), normal(2, 6, seed=i))
        for i in range(3)
    ]
    joined = join(OPS, parts)
    assert isinstance(joined.context, CachedContext)
    np.testing.assert_array_equal(joined.context.states, np.concatenate([p.context for p in parts]))
    np.testing.assert_array_equal(joined.pooled, np.concatenate([p.pooled for p in parts]))
    np.testing.assert_array_equal(joined.sizes, np.concatenate([p.sizes for p in parts]))
    again = join(OPS, [joined, joined])
    assert again.context.states.shape == (12, 3, 4)
    assert join(OPS, [Conditioning(None)] * 2) == Conditioning(None)
    assert add_cache(OPS, Conditioning(None)).context is None


def test_keys_and_values_are_made_once_for_a_layer():
    calls = []
    context = CachedContext(normal(1, 3, 4))
    first = Params()
    second = Params()

    def project(states):
        calls.append(states)
        return states, -states

    for layer in (first, first, second, first):
        keys, values = context.keys_and_values(layer, project)
        assert keys is context.states and (values == -keys).all()
    assert len(calls) == 2


def test_compiled_networks_take_arrays(monkeypatch):
    conditioning = Conditioning(normal(1, 3, 4))
    monkeypatch.setattr(OPS, "compiles", True, raising=False)
    assert add_cache(OPS, conditioning) is conditioning


# -- layers ---------------------------------------------------------------------------------------


def test_scale_and_shift_of_a_residual_block():
    """Time scales by one plus its first half of channels and shifts by the second."""
    spec = specs.resnet_block_spec(4, 6, 8, scale_shift=True)
    assert spec["time_emb_proj"] == {"weight": (12, 8), "bias": (12,)}
    assert spec["conv_shortcut"]["weight"] == (6, 4, 1, 1)
    p = random_params(spec)
    x = normal(2, 4, 5, 3)
    emb = normal(2, 8)
    got = layers.resnet_block(OPS, p, x, emb, 2, 1e-5)
    h = layers.conv2d(OPS, p.conv1, layers.norm_silu(OPS, p.norm1, x, 2, 1e-5))
    time = layers.linear(OPS, p.time_emb_proj, OPS.silu(emb))[:, :, None, None]
    h = layers.group_norm(OPS, p.norm2, h, 2, 1e-5) * (1 + time[:, :6]) + time[:, 6:]
    want = layers.conv2d(OPS, p.conv2, OPS.silu(h)) + layers.conv2d(OPS, p.conv_shortcut, x)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_shapes_of_layers():
    assert specs.linear_spec(3, 5) == {"weight": (5, 3), "bias": (5,)}
    assert specs.linear_spec(3, 5, bias=False) == {"weight": (5, 3)}
    assert specs.conv_spec(3, 5)["weight"] == (5, 3, 3, 3)
    plain = specs.attention_spec(8, 6)
    assert plain["to_k"] == plain["to_v"] == {"weight": (8, 6)} and plain["to_q"] == {
        "weight": (8, 8)
    }
    assert plain["to_out"] == {"0": {"weight": (8, 8), "bias": (8,)}}
    assert specs.attention_block_spec(8)["to_k"] == {"weight": (8, 8), "bias": (8,)}
    assert "conv_shortcut" not in specs.resnet_block_spec(4, 4, None)
    assert "time_emb_proj" not in specs.resnet_block_spec(4, 4, None)


@pytest.mark.parametrize("factor", [2, 4])
def test_mean_pool(factor):
    x = normal(2, 3, 8, 12)
    want = np.zeros((2, 3, 8 // factor, 12 // factor))
    for i in range(factor):
        for j in range(factor):
            want += x[:, :, i::factor, j::factor] / factor**2
    np.testing.assert_allclose(layers.mean_pool(OPS, x, factor), want, rtol=0, atol=1e-14)
    if factor == 2:
        np.testing.assert_array_equal(layers.mean_pool(OPS, x), layers.mean_pool(OPS, x, 2))


def test_segmentation_maps_are_shares_of_classes(monkeypatch):
    """Each cell is the share of its pixels that have a class, mapped to channels."""
    unet = replace(TINY.unet, in_channels=7)
    config = replace(TINY, denoiser=unet, concat="segmentation", segmentation_classes=5)
    assert rescaler.rescaler_spec(config) == {"channel_mapper": {"weight": (3, 5, 1, 1)}}
    assert model_spec(config)["cond_stage"] == rescaler.rescaler_spec(config)
    params = init(model_spec(config))
    model = LatentDiffusion(OPS, config, params, None)
    labels = np.random.default_rng(0).integers(0, 5, (2, 6, 4))
    shares = np.stack([(labels == k).reshape(2, 3, 2, 2, 2).mean((2, 4)) for k in range(5)], 1)
    want = np.einsum("ok,nkhw->nohw", params.cond_stage.channel_mapper.weight[:, :, 0, 0], shares)
    got = model.encode_segmentation(labels)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


# -- autoencoders ---------------------------------------------------------------------------------


def test_codes_do_not_depend_on_how_many_are_compared_at_a_time(monkeypatch):
    codebook = normal(7, 3)
    z = normal(2, 3, 5, 3, seed=1)
    want = np.empty_like(z)
    for n, y, x in np.ndindex(2, 5, 3):
        distances = np.square(codebook - z[n, :, y, x]).sum(1)
        want[n, :, y, x] = codebook[distances.argmin()]
    for block in (1, 4, 30, 4096):
        monkeypatch.setattr(autoencoder, "CODEBOOK_ROWS", block)
        np.testing.assert_array_equal(autoencoder.quantize(OPS, codebook, z), want)
    half = get_backend("numpy", dtype="float16")
    short = autoencoder.quantize(half, half.asarray(codebook), half.asarray(z))
    assert short.dtype == np.float16


def test_vq_has_one_moment_and_no_spread():
    config = AutoencoderConfig(
        block_out_channels=(8, 8),
        layers_per_block=1,
        codebook_size=9,
        latent_channels=3,
        norm_num_groups=4,
    )
    spec = autoencoder.autoencoder_spec(config)
    assert spec["quantize"] == {"embedding": {"weight": (9, 3)}}
    assert spec["quant_conv"]["weight"] == (3, 3, 1, 1)
    assert spec["encoder"]["conv_out"]["weight"][0] == 3
    mean, logvar = autoencoder.encode(OPS, random_params(spec), config, normal(1, 3, 8, 12))
    assert mean.shape == logvar.shape == (1, 3, 4, 6) and (logvar == -math.inf).all()
    image = autoencoder.decode(OPS, random_params(spec), config, mean)
    assert image.shape == (1, 3, 8, 12)
    near = autoencoder.decode(OPS, random_params(spec), config, mean + 1e-9)
    np.testing.assert_array_equal(near, image)  # the same codes


@pytest.mark.parametrize("levels", [(True, False, True), (False, True, False)])
def test_levels_with_attention_mirror_each_other(levels):
    config = AutoencoderConfig(
        block_out_channels=(8, 12, 16),
        layers_per_block=2,
        attention_levels=levels,
        norm_num_groups=4,
    )
    spec = autoencoder.autoencoder_spec(config)
    down = spec["encoder"]["down_blocks"]
    up = spec["decoder"]["up_blocks"]
    assert tuple("attentions" in down[str(i)] for i in range(3)) == levels
    assert tuple("attentions" in up[str(i)] for i in range(3)) == levels[::-1]
    assert [len(up[str(i)]["resnets"]) for i in range(3)] == [3] * 3
    assert ["downsamplers" in down[str(i)] for i in range(3)] == [True, True, False]
    assert ["upsamplers" in up[str(i)] for i in range(3)] == [True, True, False]
    p = random_params(spec)
    mean, logvar = autoencoder.encode(OPS, p, config, normal(1, 3, 8, 4))
    assert mean.shape == logvar.shape == (1, 4, 2, 1)
    assert autoencoder.decode(OPS, p, config, mean).shape == (1, 3, 8, 4)


def test_posterior_and_draws_are_scaled():
    vae = replace(TINY.vae, scaling_factor=0.5)
    model = LatentDiffusion(OPS, replace(TINY, vae=vae), init(model_spec(TINY)), None)
    image = normal(1, 3, 16, 16) / 3
    noise = normal(1, 4, 8, 8, seed=1)
    mean, std = model.encode_posterior(image)
    raw, logvar = autoencoder.encode(OPS, model.params.vae, vae, image)
    np.testing.assert_allclose(mean, 0.5 * raw, rtol=1e-13)
    np.testing.assert_allclose(std, 0.5 * np.exp(logvar / 2), rtol=1e-13)
    np.testing.assert_array_equal(model.encode_image(image), mean)
    np.testing.assert_allclose(model.encode_image(image, noise), mean + std * noise, rtol=1e-12)
    np.testing.assert_allclose(
        model.decode(mean), autoencoder.decode(OPS, model.params.vae, vae, raw), rtol=0, atol=1e-12
    )


TAESD = taesd.TinyConfig(
    encoder_channels=4,
    decoder_channels=6,
    latent_channels=5,
    num_encoder_blocks=(1, 2),
    num_decoder_blocks=(2, 1),
)


def test_a_tiny_autoencoder_has_its_own_factor_and_bounds():
    spec = taesd.tiny_spec(TAESD)
    assert (TAESD.factor, taesd.TinyConfig().factor) == (2, 8)
    net = taesd.TinyAutoencoder(OPS, TAESD, random_params(spec))
    z = net.encode(normal(1, 3, 8, 12) / 3)
    assert z.shape == (1, 5, 4, 6)
    assert net.decode(z).shape == (1, 3, 8, 12)
    # latents are bounded by 3 tanh(z / 3) before the first layer
    np.testing.assert_array_equal(
        net.decode(np.full_like(z, 1e6)), net.decode(np.full_like(z, 1e3))
    )
    grey = Params(unflatten({name: np.zeros(shape) for name, shape in flatten(spec).items()}))
    black = taesd.TinyAutoencoder(OPS, TAESD, grey)
    assert (black.decode(z) == -1.0).all() and (black.encode(normal(1, 3, 4, 4)) == 0.0).all()
    model = LatentDiffusion(OPS, TINY, init(model_spec(TINY)), None, tiny_autoencoder=net)
    mean, std = model.encode_posterior(normal(1, 3, 8, 12) / 3)
    np.testing.assert_array_equal(mean, z)
    assert (std == 0.0).all() and std.shape == z.shape


# -- tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "length,tile,overlap,starts",
    [
        (4, 4, 1, [0]),
        (5, 4, 1, [0, 1]),
        (7, 4, 1, [0, 3]),
        (8, 4, 1, [0, 3, 4]),
        (10, 4, 2, [0, 2, 4, 6]),
    ],
)
def test_where_tiles_begin(length, tile, overlap, starts):
    """As many as needed, the last at the end."""
    assert [start for start, _ in compute_ramps(length, tile, overlap)] == starts


# -- U-Net ----------------------------------------------------------------------------------------


def test_sizes_and_pooled_text_are_embedded_together():
    """SDXL: six embedded numbers after the pooled text, in the order that they are given."""
    config = replace(
        TINY.unet,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=5 + 6 * 8,
    )
    p = random_params(unet_spec(config))
    x = normal(2, 4, 8, 8)
    context = normal(2, 3, 32)
    pooled = normal(2, 5)
    sizes = np.array([[16.0, 24.0, 0.0, 0.0, 16.0, 24.0], [32.0, 16.0, 1.0, 2.0, 3.0, 4.0]])

    def run(sizes, pooled=pooled, rows=slice(None)):
        return unet(
            OPS, p, config, x[rows], np.full(2, 7.0)[rows], context[rows], pooled[rows], sizes[rows]
        )

    together = run(sizes)
    for row in (slice(0, 1), slice(1, 2)):
        np.testing.assert_allclose(together[row], run(sizes, rows=row), rtol=0, atol=1e-12)
    for i in range(6):
        other = sizes.copy()
        other[:, i] += 5.0
        assert np.abs(run(other) - together).max() > 1e-6
    assert np.abs(run(sizes, pooled=pooled + 1.0) - together).max() > 1e-6
    assert np.abs(run(sizes[:, ::-1]) - together).max() > 1e-6


def test_self_attention_in_place_of_prompts():
    config = UNetConfig(
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_levels=(False, True),
        attention="self",
        num_heads=(2, 4),
        cross_attention_dim=0,
        norm_num_groups=4,
        transformer_layers_per_block=(1, 1),
        resnet_updown=True,
    )
    spec = unet_spec(config)
    assert spec["mid_block"]["attentions"]["0"] == specs.attention_block_spec(16)
    assert "attentions" not in spec["down_blocks"]["0"] and "class_embedding" not in spec
    assert spec["down_blocks"]["0"]["downsamplers"]["0"] == specs.resnet_block_spec(8, 8, 32)
    y = unet(OPS, random_params(spec), config, normal(1, 4, 4, 6), np.array([3.0]), None)
    assert y.shape == (1, 4, 4, 6)


# -- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [-1, 2, 5])
def test_clip_skip_leaves_a_layer(tiny, skip):
    tiny.encode_text(["a"], clip_skip=1)
    with pytest.raises(UsageError) as caught:
        tiny.encode_text(["a"], clip_skip=skip)
    assert caught.value.code == "E-CLIP-SKIP" and "from 0 to 1" in str(caught.value)


def test_which_text_encoders_leave_when_the_prompts_are_read():
    """On a processor, those of published models leave; class embeddings and small ones stay."""
    large = {
        "sd15": ("text_encoder",),
        "sdxl": ("text_encoder", "text_encoder_2"),
        "ldm-text2img256": ("text_encoder",),
        "ldm-imagenet": (),
        "emoji": (),
    }
    for name, encoders in large.items():
        assert LatentDiffusion(OPS, preset(name), {}, None)._large_text_encoders == encoders
