"""Every family from nothing: a recipe on words for its tiny preset, and the model that it makes."""

from __future__ import annotations

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.models import flatten
from ldmref.models.autoencoder_config import AutoencoderConfig
from ldmref.models.family import BUILT_IN, family_of
from ldmref.models.presets import list_presets
from ldmref.training import train
from ldmref.training.family_rules import training_rules_of
from ldmref.training.recipes.file import recipe_from_dict

pytest.importorskip("torch", reason="training runs on the torch backend")

KL = {"kind": "kl", "block_out_channels": [8, 12], "layers_per_block": 1, "norm_num_groups": 4}
TINY = {
    family_of(config).name: config
    for name, config in list_presets().items()
    if name.split("-")[-1] == "tiny"
}
LONGER_TEXTS = {"flux": {"text_encoder_2": {"max_position_embeddings": 24}}}  # than its tiny preset
UNREAD = "image_cond"  # parameters of reference images, which recipes do not train


def test_every_family_has_a_tiny_preset():
    assert TINY.keys() == BUILT_IN.keys()


@pytest.mark.parametrize("family", TINY)
def test_a_recipe_trains_it(family, tmp_path):
    """Parameters that begin at zero change, and prompts are read.

    A recipe trains KL's autoencoder; other kinds are given, as `test_qwen_image_21_training.py`
    does.
    """
    config = TINY[family]
    model = {"preset": config.name, **LONGER_TEXTS.get(family, {})}
    if type(config.vae) is not AutoencoderConfig:
        model["vae"] = KL | {"latent_channels": config.vae.latent_channels}
    optimizer = {"batch_size": 4, "warmup": 1}
    recipe = recipe_from_dict(
        {
            "data": {"source": "small-emoji", "size": 16},
            "model": model,
            "autoencoder": {"optimizer": optimizer, "budget": {"steps": 1}},
            "diffusion": {"optimizer": optimizer, "budget": {"steps": 3}},
            "progress": {"seconds": 0},
        }
    )
    train(recipe, tmp_path / "run")
    trained = ldmref.load(tmp_path / "run")
    network = trained.config.denoiser.network
    params = flatten({network: trained.params[network]})
    ends = training_rules_of(trained.family).zeros(trained.config)
    read = {name: x for name, x in params.items() if UNREAD not in name}
    for end in (end for end in ends if UNREAD not in end):
        zeros = [name for name in read if name.endswith(end)]
        assert zeros, end
        assert all(np.abs(np.asarray(read[name])).max() > 0 for name in zeros), end
    options = {"seed": 1, "steps": 2, "width": 16, "height": 16}
    first = modes.txt2img(trained, "red heart", **options).latents
    assert np.isfinite(first).all()
    assert np.abs(first - modes.txt2img(trained, "cat", **options).latents).max() > 0
