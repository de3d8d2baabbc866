"""Flux.1 [Fill], which reads the mask and the masked image, against diffusers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import LdmrefError
from ldmref.families.flux.files import original_table, recognise
from ldmref.io import read_model_config
from ldmref.io.key_table import list_stored_shapes, to_compvis
from ldmref.models import preset
from ldmref.modes.masks import fold_mask

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from flux_networks import make_fill_pipeline  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

PROMPT = "a red cat"
SIZE = {"width": 24, "height": 16}
RANDOM = np.random.default_rng(0)
LATENTS = RANDOM.standard_normal((1, 4, 8, 12)).astype(np.float32)
PACKED = diffusers.FluxPipeline._pack_latents(torch.tensor(LATENTS), 1, 4, 8, 12)
IMAGE = Image.fromarray(RANDOM.integers(0, 256, (16, 24, 3), dtype=np.uint8))
MASK = Image.fromarray(RANDOM.choice(np.array([0, 255], np.uint8), (16, 24)))  # cells in part


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(diffusers' pipeline, the folder that it writes)."""
    pipe = make_fill_pipeline()
    folder = tmp_path_factory.mktemp("fill") / "model"
    pipe.save_pretrained(folder)
    return pipe, folder


def unpack(tokens):
    return diffusers.FluxPipeline._unpack_latents(tokens, 16, 24, 2).numpy()


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("scale", "strength", "latents"), [(30.0, 1.0, LATENTS), (30.0, 1.0, None), (2.0, 0.5, None)]
)
def test_images_are_those_of_diffusers(made, backend, scale, strength, latents):
    pipe, folder = made
    options = {"guidance_scale": scale, "num_inference_steps": 4, "strength": strength, **SIZE}
    if latents is not None:
        options["latents"] = PACKED

    def call(kind):
        generator = torch.Generator().manual_seed(5)
        options["generator"] = generator
        return pipe(PROMPT, image=IMAGE, mask_image=MASK, output_type=kind, **options).images[0]

    model = ldmref.load(folder, backend=backend)
    settings = {"steps": 4, "cfg_scale": scale, "seed": 5, "rng": "torch", "latents": latents}
    found = modes.inpaint(model, PROMPT, IMAGE, MASK, strength=strength, **settings)
    assert np.abs(found.latents - unpack(call("latent")[None])).max() < 1e-4
    white = np.asarray(MASK) == 255
    got = np.asarray(found.images[0]).astype(int)
    assert np.abs(got - np.round(call("np") * 255))[white].max() <= 1
    assert np.array_equal(got[~white], np.asarray(IMAGE)[~white])


def test_the_mask_is_folded_as_torch_does_it():
    mask = RANDOM.integers(0, 256, (16, 24), dtype=np.uint8)
    for factor in (2, 4, 8):
        want = torch.pixel_unshuffle(torch.tensor(mask >= 128).float()[None, None], factor)
        assert np.array_equal(fold_mask(Image.fromarray(mask), factor), want.numpy())


def test_text_alone_repaints_everything(made):
    model = ldmref.load(made[1])
    assert (model.config.defaults.steps, model.config.defaults.cfg_scale) == (50, 30.0)
    options = {"steps": 2, "latents": LATENTS}
    white = Image.new("L", IMAGE.size, 255)
    one = modes.txt2img(model, PROMPT, **options, **SIZE)
    two = modes.inpaint(model, PROMPT, IMAGE, white, strength=1.0, **options)
    assert np.abs(one.latents - two.latents).max() < 1e-5
    assert modes.img2img(model, PROMPT, IMAGE, strength=0.5, steps=2, seed=1).images
    assert modes.inpaint(model, PROMPT, IMAGE, MASK, strength=0.5, steps=2, seed=1).images


def test_a_mask_of_single_pixels_is_seen(made):
    """Where a cell's first pixel decides, such a mask would vanish."""
    model = ldmref.load(made[1])
    pixels = np.zeros((16, 24), np.uint8)
    pixels[5, 7] = 255
    found = modes.inpaint(model, PROMPT, IMAGE, Image.fromarray(pixels), steps=1, seed=1)
    assert not any("cells" in warning for warning in found.warnings)


# -- files ----------------------------------------------------------------------------------------


def test_single_files(made, tmp_path):
    pipe, folder = made
    config = read_model_config(folder)
    theirs = {name: x.numpy() for name, x in pipe.transformer.state_dict().items()}
    save_file(to_compvis(theirs, original_table(config)), str(tmp_path / "fill.safetensors"))
    models = [ldmref.load(folder), ldmref.load(tmp_path / "fill.safetensors", config=folder)]
    options = {"steps": 1, "seed": 1}
    images = [modes.inpaint(m, PROMPT, IMAGE, MASK, **options).images[0] for m in models]
    assert images[0] == images[1]


def test_files_are_recognised_by_their_shapes():
    fill = preset("flux-fill-dev")
    shapes = list_stored_shapes(original_table(fill))
    assert shapes["img_in.weight"] == (3072, 384)
    assert recognise(shapes) == fill
    short = replace(fill, denoiser=replace(fill.denoiser, num_layers=8))
    found = recognise(list_stored_shapes(original_table(short)))
    assert found == replace(short, name="flux") and found.concat == "folded_mask"
    other = replace(fill, denoiser=replace(fill.denoiser, in_channels=48))
    assert recognise(list_stored_shapes(original_table(other))) is None


def test_a_folder_with_other_channels_is_refused(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "other")
    file = tmp_path / "other" / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_channels": 32}))
    with pytest.raises(LdmrefError, match="in_channels must be 12 with concat 'folded_mask'"):
        ldmref.load(tmp_path / "other")
