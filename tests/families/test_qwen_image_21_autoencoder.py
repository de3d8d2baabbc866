"""The autoencoder of Qwen-Image 2.1 against diffusers' AutoencoderKLQwenImage21, in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.cases.shrink import shrink as shrink_model
from ldmref.errors import CorruptModelError
from ldmref.families.autoencoders.qwen_image_21 import (
    autoencoder_spec,
    decode,
    encode,
    enlarge_image,
    shrink_image,
)
from ldmref.families.autoencoders.qwen_image_21_config import (
    QwenImage21AutoencoderConfig,
    broken_rules,
    read_config,
    shrink,
)
from ldmref.models import flatten, preset, unflatten
from ldmref.models.autoencoder_kind import LatentScale, find_autoencoder

pytest.importorskip("diffusers")
import torch
from diffusers.models.autoencoders import autoencoder_kl_qwenimage21 as module
from qwen_image_21_pipelines import AUTOENCODER, make_autoencoder

UNUSED = ".time_conv."


@pytest.fixture(scope="module")
def theirs():
    """Return a small autoencoder in float64."""
    torch.manual_seed(0)
    vae = make_autoencoder().double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)  # of its up-sampling
        yield vae


@pytest.fixture(scope="module")
def config(theirs):
    return read_config(dict(theirs.config))


def read_params(theirs, ops):
    state = {
        name: ops.asarray(x.numpy())
        for name, x in theirs.state_dict().items()
        if UNUSED not in name
    }
    return unflatten(state)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 32)])
def test_images_and_latents_are_those_of_diffusers(theirs, config, backend, height, width):
    ops = get_backend(backend, dtype="float64")
    p = read_params(theirs, ops)
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (2, 4, height, width))
    with torch.no_grad():
        posterior = theirs.encode(torch.tensor(images)[:, :, None]).latent_dist
    mean, logvar = (ops.to_numpy(x) for x in encode(ops, p, config, ops.asarray(images)))
    for got, want in ((mean, posterior.mean), (logvar, posterior.logvar)):
        want = want[:, :, 0].numpy()
        assert np.abs(got - want).max() < 1e-10 * np.abs(want).max()
    z = generator.standard_normal((2, 4, height // 16, width // 16))
    with torch.no_grad():
        want = theirs.decode(torch.tensor(z)[:, :, None]).sample[:, :, 0].numpy()
    got = ops.to_numpy(decode(ops, p, config, ops.asarray(z)))
    assert np.abs(got - want).max() < 1e-10 and want.std() > 0.05


def test_images_end_at_one(theirs, config):
    ops = get_backend("numpy", dtype="float64")
    p = read_params(theirs, ops)
    p.decoder.conv_out.bias = np.asarray([9.0, -9.0, 9.0, -9.0])
    found = decode(ops, p, config, np.zeros((1, 4, 2, 2)))
    assert found.max(axis=(0, 2, 3)).tolist() == [1.0, -1.0, 1.0, -1.0]


@pytest.mark.parametrize(("width", "frames"), [(6, 1), (12, 2), (6, 2), (3, 1), (24, 1), (24, 2)])
def test_shortcuts_of_the_encoder(width, frames):
    x = torch.randn(2, 6, 1, 4, 8, dtype=torch.float64)
    want = module.QwenImage21AvgDown3D(6, width, frames, 2)(x)[:, :, 0].numpy()
    found = shrink_image(x[:, :, 0].numpy(), width, frames)
    assert np.abs(found - want).max() < 1e-14


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(("width", "frames"), [(8, 2), (8, 1), (4, 2), (4, 1), (2, 1), (2, 2)])
def test_shortcuts_of_the_decoder(backend, width, frames):
    x = torch.randn(2, 8, 1, 3, 4, dtype=torch.float64)
    layer = module.QwenImage21DupUp3D(8, width, frames, 2)
    want = layer(x, first_chunk=True)[:, :, 0].numpy()
    ops = get_backend(backend, dtype="float64")
    found = ops.to_numpy(enlarge_image(ops.asarray(x[:, :, 0].numpy()), width, frames))
    assert np.array_equal(found, want)


def test_latents_are_normalised_per_channel(theirs, config):
    ops = get_backend("numpy", dtype="float64")
    scale = LatentScale(ops, config, unflatten({}))
    z = np.random.default_rng(0).standard_normal((2, 4, 3, 3))
    mean, std = (np.asarray(AUTOENCODER[name]) for name in ("latents_mean", "latents_std"))
    latents = scale.normalize(z)
    assert np.abs(latents - (z - mean[:, None, None]) / std[:, None, None]).max() < 1e-15
    assert np.abs(scale.denormalize(latents) - z).max() < 1e-14
    assert np.allclose(scale.spread(np.ones_like(z)), 1.0 / std[:, None, None])


def test_published_size():
    """337,740,404 parameters in 238 tensors, of which an image needs all but those along time."""
    with torch.device("meta"):
        state = module.AutoencoderKLQwenImage21().state_dict()
    assert len(state) == 238 and sum(x.numel() for x in state.values()) == 337_740_404
    config = preset("qwen-image-2.1").vae
    read = {name: tuple(x.shape) for name, x in state.items() if UNUSED not in name}
    assert flatten(autoencoder_spec(config)) == read
    assert read_config({}) == config == QwenImage21AutoencoderConfig()
    assert (config.factor, config.decoder_width) == (16, 288)


def test_a_small_one_has_both_kinds_of_shortcuts():
    small = shrink(QwenImage21AutoencoderConfig())
    assert not [*broken_rules(small)]
    assert small.frames == (1, 2, 1)
    assert small.factor == 4 and find_autoencoder("qwen-image-2.1").shrink is shrink


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latents_mean": (0.0,)}, "latents_mean needs a number per latent channel"),
        ({"latents_std": (0.0,) * 64}, "latents_std must be positive"),
        ({"temporal_downsample": (True,)}, "an entry for each level but the last"),
        ({"dim_mult": (1, 2, 4, 8, 4)}, "as wide as the one before"),
        ({"dim_mult": (3, 7, 7), "temporal_downsample": (False,) * 2}, "an encoder's shortcut"),
        ({"dim_mult": (2, 3, 3), "temporal_downsample": (True,) * 2}, "a decoder's shortcut"),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    found = [*broken_rules(replace(QwenImage21AutoencoderConfig(), **changes))]
    assert any(words in line for line in found), found


@pytest.mark.parametrize("name", ["is_residual", "patch_size"])
def test_other_forms_are_refused(name):
    with pytest.raises(CorruptModelError, match=name):
        read_config({name: 2})


@pytest.mark.parametrize("name", ["sd15", "flux2-klein-4b", "krea-2", "qwen-image-2.1"])
@pytest.mark.parametrize(("bias", "clipped"), [(1000.0, 20.0), (-1000.0, -30.0), (20.5, 20.0)])
def test_log_variances_of_every_kind_are_from_minus_30_to_20(name, bias, clipped):
    """As diffusers' DiagonalGaussianDistribution clips them."""
    config = shrink_model(preset(name)).vae
    kind = find_autoencoder(config.kind)
    params = {
        path: np.full(shape, bias if path == "quant_conv.bias" else 0.0)
        for path, shape in flatten(kind.spec(config)).items()
    }
    ops = get_backend("numpy", dtype="float64")
    _, logvar = kind.encode(
        ops, unflatten(params), config, np.zeros((1, config.in_channels, 16, 16))
    )
    assert np.unique(logvar).tolist() == [clipped]
