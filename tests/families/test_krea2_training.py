"""Krea 2 from nothing: a recipe on words, and the model that it makes."""

from __future__ import annotations

import numpy as np

import ldmref
from ldmref import modes
from ldmref.models import flatten
from ldmref.training import train
from ldmref.training.recipes.file import recipe_from_dict

# a recipe trains KL's autoencoder; on Qwen-Image's latents `ldmref finetune` trains
KL = {
    "kind": "kl", "latent_channels": 4, "block_out_channels": [8, 12], "layers_per_block": 1,
    "norm_num_groups": 4,
}  # fmt: skip


def test_a_recipe_trains_it(tmp_path):
    """Every parameter of the transformer that is used changes, and prompts of words are read."""
    optimizer = {"batch_size": 4, "warmup": 1}
    recipe = recipe_from_dict(
        {
            "data": {"source": "small-emoji", "size": 16},
            "model": {"preset": "krea-2-tiny", "vae": KL},
            "autoencoder": {"optimizer": optimizer, "budget": {"steps": 1}},
            "diffusion": {"optimizer": optimizer, "budget": {"steps": 3}},
            "progress": {"seconds": 0},
        }
    )
    train(recipe, tmp_path / "run")
    model = ldmref.load(tmp_path / "run")
    params = flatten(dict(model.params["transformer"]))
    changed = ["transformer_blocks.0.scale_shift_table", "transformer_blocks.1.attn.norm_q.weight"]
    changed += ["final_layer.linear.weight", "text_fusion.projector.weight"]
    assert all(np.abs(np.asarray(params[name])).max() > 0 for name in changed)
    options = {"seed": 1, "steps": 2}
    first = modes.txt2img(model, "red heart", **options).latents
    assert np.isfinite(first).all()
    assert np.abs(first - modes.txt2img(model, "cat", **options).latents).max() > 0
