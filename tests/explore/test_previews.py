"""The linear preview explains the images, and is found for the families that have one."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import ldmref
from ldmref import explore
from ldmref.errors import CorruptModelError, UsageError
from ldmref.explore.preview import find_preview, preview_pixels
from ldmref.io.native import read_config, save_folder
from ldmref.models.presets import preset
from ldmref.models.validate import config_from_dict

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model():
    return ldmref.load(backend="numpy")


@pytest.fixture(scope="module")
def fitting():
    spec = importlib.util.spec_from_file_location("fit_preview", ROOT / "scripts/fit_preview.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_embedded_models_preview_explains_held_out_images(model, fitting):
    """0.95 of 50 held-out prompts (scripts/fit_preview.py); these four are others again."""
    preview = explore.preview_matrix(model)
    prompts = ["a green cat and a red apple", "a blue dog on yellow", "grinning face", "red heart"]
    latents = np.stack(
        [fitting.sample_latents(model, prompt, 1000 + i) for i, prompt in enumerate(prompts)]
    )
    for i, least in enumerate((0.8, 0.9, 0.9, 0.9)):  # the first step, later ones, the end
        colours = fitting.cell_colours(model, latents[:, i])
        assert fitting.explained(preview, latents[:, i], colours) > least
    shuffled = preview._replace(matrix=preview.matrix[:, ::-1])
    assert fitting.explained(shuffled, latents[:, -1], colours) < 0.7


def test_the_fit_finds_a_linear_map(fitting):
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, 4, 5, 6))
    matrix, bias = 0.05 * rng.standard_normal((3, 4)), np.array([0.5, 0.4, 0.6])
    colours = np.einsum("rc,nchw->nhwr", matrix, latents) + bias
    found = fitting.fit(latents, colours)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-12)
    np.testing.assert_allclose(found.bias, bias, atol=1e-12)


def test_images_are_one_pixel_per_cell(model):
    latents = np.random.default_rng(0).standard_normal((2, 16, 16, 16)).astype(np.float32)
    images = explore.preview_images(model, latents)
    assert [image.size for image in images] == [(16, 16), (16, 16)]
    matrix, bias = explore.preview_matrix(model)
    expected = np.clip(matrix @ latents[1, :, 3, 5] + bias, 0, 1)
    np.testing.assert_allclose(np.asarray(images[1])[3, 5] / 255, expected, atol=0.51 / 255)


def test_stable_diffusion_has_the_published_matrices():
    """ComfyUI: RGB in [-1, 1] = factors^T z + bias, then (RGB + 1) / 2."""
    z = np.zeros((1, 4, 1, 1), np.float32)
    z[0, 3] = 1.0
    sd = find_preview(preset("sd15").vae)
    np.testing.assert_allclose(
        preview_pixels(sd, z)[0, 0, 0], (np.array([-0.2120, -0.2616, -0.7177]) + 1) / 2, rtol=1e-6
    )
    xl = find_preview(preset("sdxl").vae)
    grey = preview_pixels(xl, 0 * z)[0, 0, 0]
    np.testing.assert_allclose(grey, (np.array([0.1084, -0.0175, -0.0011]) + 1) / 2, rtol=1e-6)
    assert explore.has_preview(preset("sd2-v"))
    assert not explore.has_preview(preset("ldm-text2img256"))


def test_a_model_without_one_says_so():
    tiny = ldmref.random_model("tiny")
    assert not explore.has_preview(tiny) and explore.preview_matrix(tiny) is None
    with pytest.raises(UsageError, match="does not have a linear preview"):
        explore.preview_images(tiny, np.zeros((1, 4, 8, 8)))


def test_a_folder_keeps_it_and_old_folders_load(tmp_path, model):
    tiny = ldmref.random_model("tiny")
    numbers = tuple(float(i) for i in range(15))
    vae = dataclasses.replace(tiny.config.vae, preview=numbers)
    config = dataclasses.replace(tiny.config, vae=vae)
    save_folder(tmp_path / "new", config, tiny.params, [tiny.tokenizer])
    assert read_config(tmp_path / "new" / "config.json").vae.preview == numbers
    loaded = ldmref.load(tmp_path / "new", backend="numpy")
    assert explore.preview_matrix(loaded).bias.tolist() == [4.0, 9.0, 14.0]
    path = tmp_path / "new" / "config.json"
    old = config.to_dict()
    del old["vae"]["preview"]
    assert config_from_dict(old).vae.preview == ()
    assert read_config(path).vae.preview == numbers


def test_a_preview_of_another_shape_is_refused():
    data = preset("tiny").to_dict()
    data["vae"]["preview"] = [1.0, 2.0]
    with pytest.raises(CorruptModelError, match="a weight per latent channel and a bias"):
        config_from_dict(data)
