"""Qwen-Image's autoencoder in the file that ComfyUI reads, which has the names of Wan 2.1."""

from __future__ import annotations

import re

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import LdmrefError
from ldmref.families.autoencoders.qwen_image import QWEN_IMAGE, QwenAutoencoderConfig
from ldmref.io import read_vae
from ldmref.io.key_table import list_stored_shapes, to_compvis
from ldmref.models import preset
from ldmref.models.params import flatten, unflatten

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from krea2_pipelines import make_pipeline, networks_in_double
from safetensors.numpy import save_file
from safetensors.torch import load_file

MEAN, DEVIATION = (0.1, -0.2, 0.3, 0.4), (1.0, 2.0, 0.5, 1.5)


def configure(**changes):
    """Return a configuration of the published form, and diffusers' autoencoder of it."""
    config = QwenAutoencoderConfig(
        latent_channels=4, base_dim=8, latents_mean=MEAN, latents_std=DEVIATION, **changes
    )
    torch.manual_seed(0)
    theirs = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[*config.dim_mult],
        num_res_blocks=config.num_res_blocks,
        latents_mean=[*MEAN],
        latents_std=[*DEVIATION],
    )
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1 if parameter.ndim > 1 else 0.3)
    return config, theirs.eval().double()


def write_makers_file(path, config, theirs):
    """Write diffusers' weights under the makers' names, with two blocks of a level."""
    state = {name: x.float().numpy() for name, x in theirs.state_dict().items()}
    entries = QWEN_IMAGE.makers(config)
    tensors = {entry.name: state[name] for name, entry in entries.items()}
    middle = re.compile(r"decoder\.up_blocks\.(\d)\.upsamplers\.0\.")
    for name, x in state.items():
        if ".time_conv." in name:
            name = name.replace("encoder.down_blocks", "encoder.downsamples")
            name = middle.sub(lambda m: f"decoder.upsamples.{4 * int(m[1]) + 3}.", name)
            tensors[name] = x
    assert len(tensors) == len(state)
    save_file(tensors, str(path))


def test_a_file_decodes_as_diffusers_which_renames_its_tensors(tmp_path):
    """Levels and blocks are the published ones, which diffusers can rename."""
    config, theirs = configure()
    path = tmp_path / "qwen_image_vae.safetensors"
    write_makers_file(path, config, theirs)
    again = AutoencoderKLQwenImage(base_dim=8, z_dim=4).double()
    again.load_state_dict(convert_wan_vae_to_diffusers(load_file(path)))
    found = read_vae(path, config)
    assert found.config == config and found.name == "qwen_image_vae"
    ops = get_backend("numpy", dtype="float64")
    params = unflatten({k: np.asarray(x, np.float64) for k, x in found.tensors.items()})
    rng = np.random.default_rng(0)
    z, image = rng.standard_normal((1, 4, 3, 5)), rng.uniform(-1, 1, (1, 3, 24, 40))
    with networks_in_double(), torch.no_grad():
        want = again.decode(torch.tensor(z)[:, :, None]).sample[:, :, 0].numpy()
        posterior = again.encode(torch.tensor(image)[:, :, None]).latent_dist
    got = QWEN_IMAGE.decode(ops, params, config, z)
    mean, _ = QWEN_IMAGE.encode(ops, params, config, image)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(mean, posterior.mean[:, :, 0].numpy(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("changes", [{"num_res_blocks": 1}, {"dim_mult": (1, 2)}])
def test_a_file_of_another_form(tmp_path, changes):
    config, theirs = configure(**changes)
    state = {name: x.float().numpy() for name, x in theirs.state_dict().items()}
    stored = {entry.name: state[name] for name, entry in QWEN_IMAGE.makers(config).items()}
    save_file(stored, str(tmp_path / "vae.safetensors"))
    assert read_vae(tmp_path / "vae.safetensors", config).config == config


def test_the_published_shapes():
    """Kernels have 3 frames or 1, except those of resamplers and of attention."""
    shapes = list_stored_shapes(QWEN_IMAGE.makers(preset("krea-2").vae))
    assert shapes["encoder.conv1.weight"] == (96, 3, 3, 3, 3)
    assert shapes["encoder.downsamples.2.resample.1.weight"] == (96, 96, 3, 3)
    assert shapes["encoder.downsamples.10.residual.6.bias"] == (384,)
    assert shapes["decoder.middle.1.to_qkv.weight"] == (1152, 384, 1, 1)
    assert shapes["decoder.upsamples.4.shortcut.weight"] == (384, 192, 1, 1, 1)
    assert shapes["decoder.upsamples.14.residual.0.gamma"] == (96, 1, 1, 1)
    assert shapes["decoder.head.2.weight"] == (3, 96, 3, 3, 3)
    assert shapes["conv1.weight"] == (32, 32, 1, 1, 1)


def test_it_takes_the_place_of_a_models_own(tmp_path):
    """The image is that of the model's own, and the error of a file alone names the option."""
    make_pipeline(tmp_path / "tokenizer").save_pretrained(tmp_path / "krea2")
    model = ldmref.load(tmp_path / "krea2")
    flat = {name: np.asarray(x) for name, x in flatten(dict(model.params["vae"])).items()}
    path = tmp_path / "qwen_image_vae.safetensors"
    save_file(to_compvis(flat, QWEN_IMAGE.makers(model.config.vae)), str(path))
    other = ldmref.load(tmp_path / "krea2", vae=path)
    size = {"seed": 1, "steps": 1, "width": 24, "height": 16}
    want, found = (modes.txt2img(x, "a cat", **size).images[0] for x in (model, other))
    assert want == found and other.config.vae == model.config.vae
    with pytest.raises(LdmrefError, match="an autoencoder of Qwen-Image") as caught:
        ldmref.load(path)
    assert "--vae" in (caught.value.hint or "")
