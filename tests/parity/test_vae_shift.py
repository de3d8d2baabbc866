"""Autoencoders with a shift factor and without 1 x 1 convolutions, as in Stable Diffusion 3."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ldmref
from ldmref.apps.cli.main import main
from ldmref.backends import get_backend
from ldmref.io import save_folder
from ldmref.io.adapters.autoencoder import read_vae
from ldmref.models.autoencoder import decode, encode
from ldmref.models.params import unflatten
from ldmref.ports.written import save_autoencoder

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
SHAPE = dict(
    block_out_channels=[8, 16],
    layers_per_block=1,
    norm_num_groups=4,
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
)
SHIFTED = dict(scaling_factor=1.5305, shift_factor=0.0609)
PLAIN = dict(use_quant_conv=False, use_post_quant_conv=False)
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


@pytest.fixture
def make(tmp_path):
    """Return a function of the fields that makes (diffusers' autoencoder, its folder)."""

    def make(**fields):
        torch.manual_seed(3)
        vae = diffusers.AutoencoderKL(**SHAPE, **fields)
        vae.save_pretrained(tmp_path / "vae")
        return vae.double().eval(), tmp_path / "vae"

    return make


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_the_networks_are_those_of_diffusers(make, backend, before, after):
    vae, folder = make(
        latent_channels=16, use_quant_conv=after, use_post_quant_conv=before, **SHIFTED
    )
    ops = get_backend(backend, dtype="float64")
    found = read_vae(folder)
    params = unflatten({name: ops.asarray(np.asarray(t)) for name, t in found.tensors.items()})
    assert ("quant_conv" in params, "post_quant_conv" in params) == (after, before)
    image = np.random.default_rng(0).uniform(-1, 1, (2, 3, 8, 12))
    z = np.random.default_rng(1).standard_normal((2, 16, 4, 6))
    with torch.no_grad():
        posterior = vae.encode(torch.tensor(image)).latent_dist
        want = [posterior.mean, posterior.logvar, vae.decode(torch.tensor(z)).sample]
    with ops.inference():
        got = [*encode(ops, params, found.config, ops.asarray(image))]
        got.append(decode(ops, params, found.config, ops.asarray(z)))
    for ours, theirs in zip(got, want, strict=True):
        error = np.abs(ops.to_numpy(ours) - theirs.numpy()).max()
        assert error < 1e-10 * np.abs(theirs.numpy()).max()


@one_family
def test_latents_are_shifted_and_scaled(folder, make, tmp_path):
    """As diffusers' pipelines do: latents = (z - shift) * scale, and back before decoding."""
    vae, path = make(latent_channels=4, **SHIFTED, **PLAIN)
    model = ldmref.load(folder, backend="numpy", dtype="float64", vae=path)
    latents = np.random.default_rng(0).standard_normal((1, 4, 4, 4))
    image = np.random.default_rng(1).uniform(-1, 1, (1, 3, 8, 8))
    with torch.no_grad():
        decoded = vae.decode(torch.tensor(latents) / 1.5305 + 0.0609).sample.numpy()
        posterior = vae.encode(torch.tensor(image)).latent_dist
    want = (posterior.mean.numpy() - 0.0609) * 1.5305
    assert np.abs(model.decode(latents) - decoded).max() < 1e-10 * np.abs(decoded).max()
    assert np.abs(model.encode_image(image) - want).max() < 1e-10 * np.abs(want).max()
    mean, std = model.encode_posterior(image)
    assert np.array_equal(mean, model.encode_image(image))
    assert np.allclose(std, posterior.std.numpy() * 1.5305, rtol=1e-10)
    save_folder(tmp_path / "native", model.config, model.params, [model.tokenizer], np.float64)
    again = ldmref.load(tmp_path / "native", dtype="float64")
    assert np.array_equal(again.decode(latents), model.decode(latents))


def test_a_folder_is_written_as_diffusers_reads_it(make, tmp_path):
    vae, folder = make(latent_channels=16, **SHIFTED, **PLAIN)
    found = read_vae(folder)
    save_autoencoder(tmp_path / "saved", found.config, unflatten(dict(found.tensors)))
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path / "saved").double()
    assert theirs.config.shift_factor == 0.0609 and theirs.quant_conv is None
    z = torch.randn(1, 16, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(theirs.decode(z).sample, vae.decode(z).sample)
    assert read_vae(tmp_path / "saved").config == found.config


def test_a_missing_shift_is_zero(make):
    """Published files of autoencoders without a shift hold null."""
    _, folder = make(latent_channels=4)
    file = folder / "config.json"
    for value in (None, 0, 0.0):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"shift_factor": value}))
        assert read_vae(folder).config.shift_factor == 0.0


@one_family
def test_a_single_file_of_compvis_cannot_hold_a_shift(folder, make, tmp_path, capsys):
    _, path = make(latent_channels=4, **SHIFTED)
    model = ldmref.load(folder, vae=path)
    save_folder(tmp_path / "native", model.config, model.params, [model.tokenizer], np.float32)
    assert main(["convert", str(tmp_path / "native"), str(tmp_path / "one.safetensors")]) == 2
    assert "has a shift factor, which has no name" in capsys.readouterr().err
