"""Other autoencoders in a model: diffusers' and CompVis' files, and TAESD."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import CorruptModelError, InputError, KeyMismatchError, UsageError
from ldmref.io.adapters.autoencoder import read_vae
from ldmref.io.compvis.keys import autoencoder_table
from ldmref.io.key_table import to_compvis
from ldmref.loading_networks import load_taesd
from ldmref.models.config import AutoencoderConfig
from ldmref.models.params import flatten
from ldmref.models.taesd import TinyAutoencoder, TinyConfig, tiny_spec

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
VAE = dict(
    block_out_channels=[8, 16],
    layers_per_block=1,
    norm_num_groups=4,
    latent_channels=4,
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
)
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """(diffusers' autoencoder, its folder): as the model's, with other weights and scale."""
    torch.manual_seed(7)
    vae = diffusers.AutoencoderKL(scaling_factor=0.5, **VAE)
    folder = tmp_path_factory.mktemp("vae") / "other"
    vae.save_pretrained(folder)
    return vae.double(), folder


def compvis_file(folder, path, prefix="", extra=()):
    """Return the autoencoder of a folder under CompVis' names."""
    config = read_vae(folder).config
    flat = {name: np.asarray(t) for name, t in read_vae(folder).tensors.items()}
    tensors = {prefix + n: t for n, t in to_compvis(flat, autoencoder_table(config)).items()}
    save_file(tensors | dict.fromkeys(extra, np.zeros(2, np.float32)), str(path))
    return path


@pytest.fixture(scope="module")
def layouts(other, tmp_path_factory):
    """Return the same autoencoder in every layout."""
    folder = other[1]
    base = tmp_path_factory.mktemp("layouts")
    pipeline = base / "pipeline"
    shutil.copytree(folder, pipeline / "vae")
    shutil.copy(folder / WEIGHTS, base / "diffusers.safetensors")
    old = load_file(folder / WEIGHTS)
    for new, name in {
        "to_q": "query",
        "to_k": "key",
        "to_v": "value",
        "to_out.0": "proj_attn",
    }.items():
        old = {
            n.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): t for n, t in old.items()
        }
    shutil.copytree(folder, base / "old")
    save_file(old, str(base / "old" / WEIGHTS))
    junk = ["loss.discriminator.main.0.weight", "model_ema.decay", "loss.logvar"]
    whole = ["model.diffusion_model.out.2.bias", "betas"]
    return {
        "folder": folder,
        "pipeline": pipeline,
        "old names": base / "old",
        "diffusers file": base / "diffusers.safetensors",
        "kl-f8": compvis_file(folder, base / "kl.safetensors", extra=junk),
        "below state_dict": compvis_file(folder, base / "sd.safetensors", "state_dict.", junk),
        "within a model": compvis_file(folder, base / "m.safetensors", "first_stage_model.", whole),
    }


LAYOUTS = (
    "folder",
    "pipeline",
    "old names",
    "diffusers file",
    "kl-f8",
    "below state_dict",
    "within a model",
)


@one_family
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_swapped_autoencoder_draws(folder, other, layouts, layout):
    vae, _ = other
    model = ldmref.load(folder, backend="numpy", dtype="float64", vae=layouts[layout])
    scale = 0.5 if layout in ("folder", "pipeline", "old names") else 0.18215
    assert model.config.vae.scaling_factor == scale
    latents = np.random.default_rng(0).standard_normal((1, 4, 4, 4))
    image = np.random.default_rng(1).uniform(-1, 1, (1, 3, 8, 8))
    with torch.no_grad():
        want = vae.decode(torch.tensor(latents) / scale).sample.numpy()
        mean = vae.encode(torch.tensor(image)).latent_dist.mean.numpy() * scale
    assert np.abs(model.decode(latents) - want).max() < 1e-10 * np.abs(want).max()
    assert np.abs(model.encode_image(image) - mean).max() < 1e-10 * np.abs(mean).max()
    record = model.modifications["vae"]
    assert set(record) == {"name", "sha256"} and len(record["sha256"]) == 64


@one_family
def test_a_model_without_another_autoencoder_stays_as_it_is(folder, layouts):
    plain = ldmref.load(folder, backend="numpy")
    swapped = ldmref.load(folder, backend="numpy", vae=layouts["folder"])
    a = flatten(plain.params)
    b = flatten(swapped.params)
    assert a.keys() == b.keys() and plain.modifications == {}
    changed = {n for n in a if not np.array_equal(a[n], b[n])}
    assert changed and all(n.startswith("vae.") for n in changed)
    result = modes.txt2img(swapped, "cat", seed=0, steps=1, width=16, height=16)
    assert result.params["model"]["vae"]["name"] == "other" and "VAE: other" in result.infotext()


def test_what_is_no_autoencoder_for_the_model_is_refused(other, layouts, tmp_path):
    _, folder = other
    small = read_vae(folder).config
    tensors = load_file(folder / WEIGHTS)
    tensors.pop("quant_conv.bias")
    save_file(tensors, str(tmp_path / "a.safetensors"))
    with pytest.raises(KeyMismatchError, match=r"1 missing \(quant_conv.bias\)"):
        read_vae(tmp_path / "a.safetensors", small)
    with pytest.raises(KeyMismatchError, match="misshapen"):
        read_vae(layouts["kl-f8"], AutoencoderConfig())
    with pytest.raises(KeyMismatchError):
        read_vae(compvis_file(folder, tmp_path / "b.safetensors", extra=["strange"]), small)
    with pytest.raises(InputError, match="no autoencoder"):
        read_vae(tmp_path / "gone.safetensors")
    shutil.copytree(folder, tmp_path / "other")
    facts = json.loads((folder / "config.json").read_text())
    facts |= {"_class_name": "AutoencoderDC"}
    (tmp_path / "other" / "config.json").write_text(json.dumps(facts))
    with pytest.raises(CorruptModelError, match="AutoencoderDC"):
        read_vae(tmp_path / "other")


@one_family
def test_another_latent_space_is_refused(folder, tmp_path):
    for name, changes, word in (
        ("channels", {"latent_channels": 8}, "8 channels at 1/2"),
        (
            "factor",
            dict(
                block_out_channels=[8],
                down_block_types=["DownEncoderBlock2D"],
                up_block_types=["UpDecoderBlock2D"],
            ),
            "4 channels at 1/1",
        ),
    ):
        diffusers.AutoencoderKL(**VAE | changes).save_pretrained(tmp_path / name)
        with pytest.raises(UsageError, match=word):
            ldmref.load(folder, backend="numpy", vae=tmp_path / name)


# -- TAESD ----------------------------------------------------------------------------------------

SMALL = dict(
    encoder_block_out_channels=(8, 8),
    decoder_block_out_channels=(12, 12),
    num_encoder_blocks=(1, 2),
    num_decoder_blocks=(2, 1),
)


@pytest.fixture(scope="module", params=["published sizes", "small"])
def tiny(request, tmp_path_factory):
    torch.manual_seed(1)
    made = diffusers.AutoencoderTiny(**SMALL if request.param == "small" else {})
    folder = tmp_path_factory.mktemp("taesd") / "taesd"
    made.save_pretrained(folder)
    return made.double(), folder


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_taesd_against_diffusers(tiny, backend):
    theirs, folder = tiny
    ours = load_taesd(folder, get_backend(backend, dtype="float64"))
    f = ours.config.factor
    image = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4 * f, 6 * f))
    latents = 4 * np.random.default_rng(1).standard_normal((2, 4, 4, 6))
    with torch.no_grad():
        z = theirs.encode(torch.tensor(image)).latents.numpy()
        x = theirs.decode(torch.tensor(latents)).sample.numpy()
    asarray = ours.backend.asarray
    to_numpy = ours.backend.to_numpy
    for got, want in (
        (to_numpy(ours.encode(asarray(image))), z),
        (to_numpy(ours.decode(asarray(latents))), x),
    ):
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= 1e-10 * np.abs(want).max()


def test_taesd_file_of_the_published_sizes(tiny, tmp_path):
    """It has no configuration next to it, as if it was fetched alone."""
    theirs, folder = tiny
    shutil.copy(folder / WEIGHTS, tmp_path / WEIGHTS)
    folder = tmp_path
    if theirs.config.encoder_block_out_channels[0] != 64:
        with pytest.raises(KeyMismatchError):
            read_vae(folder / WEIGHTS)
        return
    found = read_vae(folder / WEIGHTS)
    assert found.config == TinyConfig()
    assert set(found.tensors) == set(theirs.state_dict()) == set(flatten(tiny_spec(TinyConfig())))


@one_family
def test_taesd_draws_in_place_of_the_autoencoder_and_in_previews(folder, tmp_path):
    torch.manual_seed(2)
    small = diffusers.AutoencoderTiny(**SMALL)
    small.save_pretrained(tmp_path / "taesd")
    model = ldmref.load(folder, backend="numpy", dtype="float64", vae=tmp_path / "taesd")
    latents = np.random.default_rng(0).standard_normal((1, 4, 4, 4))
    image = np.random.default_rng(1).uniform(-1, 1, (1, 3, 8, 8))
    with torch.no_grad():
        want = small.double().decode(torch.tensor(latents)).sample.numpy()
        z = small.encode(torch.tensor(image)).latents.numpy()
    assert np.allclose(model.decode(latents), want, atol=1e-10)
    assert np.allclose(model.encode_image(image), z, atol=1e-10)
    mean, std = model.encode_posterior(image)
    assert np.allclose(mean, z, atol=1e-10) and not std.any()
    assert model.modifications["vae"]["name"] == "taesd"

    full = ldmref.load(folder, backend="numpy")
    previews = []
    fast = load_taesd(tmp_path / "taesd", full.backend)

    def callback(event):
        previews.append((event.preview(), event.preview(fast), event.x0))

    result = modes.txt2img(full, "cat", seed=0, steps=2, width=16, height=16, callback=callback)
    slow, quick, x0 = previews[-1]
    assert np.array_equal(np.asarray(slow[0]), np.asarray(full_image(full, x0)))
    assert np.array_equal(np.asarray(quick[0]), np.asarray(full_image(fast, x0)))
    assert not np.array_equal(np.asarray(slow[0]), np.asarray(quick[0]))
    assert result.images[0].size == quick[0].size


def full_image(decoder, latents):
    from ldmref.io.images.pil import to_images

    return to_images(decoder.backend.to_numpy(decoder.decode(decoder.backend.asarray(latents))))[0]


def test_taesd_configurations_that_are_not_understood(tiny, tmp_path):
    _, folder = tiny
    facts = json.loads((folder / "config.json").read_text())
    shutil.copytree(folder, tmp_path / "t")
    for change in (
        {"act_fn": "silu"},
        {"upsampling_scaling_factor": 4},
        {"scaling_factor": 2.0},
        {"encoder_block_out_channels": [8, 16, 8, 8]},
    ):
        (tmp_path / "t" / "config.json").write_text(json.dumps(facts | change))
        with pytest.raises(CorruptModelError):
            read_vae(tmp_path / "t")


def test_a_full_autoencoder_is_no_taesd(other):
    with pytest.raises(InputError, match="is not TAESD"):
        load_taesd(other[1], get_backend("numpy"))


def test_taesd_keeps_short_types(tiny):
    ours = load_taesd(tiny[1], get_backend("numpy", dtype="float16"))
    latents = np.zeros((1, 4, 2, 2), np.float16)
    assert ours.decode(latents).dtype == np.float16
    assert isinstance(ours, TinyAutoencoder) and "float16" in repr(ours)
