"""FLUX.2 from nothing: a recipe on words, and the model that it makes."""

from __future__ import annotations

import numpy as np

import ldmref
from ldmref import modes
from ldmref.models import flatten
from ldmref.training import train
from ldmref.training.family_rules import training_rules_of
from ldmref.training.recipes.file import recipe_from_dict


def test_a_recipe_trains_it(tmp_path):
    """On latents of a first stage of ldmref; modulations, which begin at zero, are learned."""
    optimizer = {"batch_size": 4, "warmup": 1}
    vae = {"latent_channels": 16, "block_out_channels": [8, 8], "norm_num_groups": 4}
    recipe = recipe_from_dict(
        {
            "data": {"source": "small-emoji", "size": 16},
            "model": {"preset": "flux2-tiny", "vae": {"kind": "kl", "layers_per_block": 1, **vae}},
            "autoencoder": {"optimizer": optimizer, "budget": {"steps": 1}},
            "diffusion": {"optimizer": optimizer, "budget": {"steps": 3}},
            "progress": {"seconds": 0},
        }
    )
    train(recipe, tmp_path / "run")
    model = ldmref.load(tmp_path / "run")
    params = flatten(dict(model.params["transformer"]))
    ends = training_rules_of(model.family).zeros(model.config)
    zeros = [name for name in params if name.endswith(ends)]
    assert len(zeros) == len(ends)
    assert all(np.abs(np.asarray(params[name])).max() > 0 for name in zeros)
    options = {"seed": 1, "steps": 2, "width": 16, "height": 16}
    first = modes.txt2img(model, "red heart", **options).latents
    assert np.isfinite(first).all()
    assert np.abs(first - modes.txt2img(model, "cat", **options).latents).max() > 0
