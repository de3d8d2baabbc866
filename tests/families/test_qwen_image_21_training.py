"""Qwen-Image 2.1 from nothing, on the latents of its own autoencoder."""

from __future__ import annotations

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.models import flatten
from ldmref.training import train
from ldmref.training.recipes.file import recipe_from_dict

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from qwen_image_21_pipelines import make_autoencoder


def test_a_recipe_trains_it_on_a_given_autoencoder(tmp_path):
    """On latents of another kind than recipes train: zeros change, and words are read."""
    levels = {"dim_mult": [1, 2, 2], "temperal_downsample": [False, True]}
    make_autoencoder(**levels, scale_factor_spatial=4).save_pretrained(tmp_path / "vae")
    optimizer = {"batch_size": 4, "warmup": 1}
    recipe = recipe_from_dict(
        {
            "data": {"source": "small-emoji", "size": 16},
            "model": {"preset": "qwen-image-2.1-tiny"},
            "autoencoder": {"source": str(tmp_path / "vae")},
            "diffusion": {"optimizer": optimizer, "budget": {"steps": 3}},
            "progress": {"seconds": 0},
        }
    )
    train(recipe, tmp_path / "run")
    model = ldmref.load(tmp_path / "run")
    params = flatten(dict(model.params["transformer"]))
    for name in ("modulation.1.weight", "norm_out.linear.weight", "proj_out.weight"):
        assert np.abs(np.asarray(params[name])).max() > 0, name
    options = {"seed": 1, "steps": 2}
    first = modes.txt2img(model, "red heart", **options).latents
    assert np.isfinite(first).all()
    assert np.abs(first - modes.txt2img(model, "cat", **options).latents).max() > 0
