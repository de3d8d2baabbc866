from __future__ import annotations

import dataclasses

import pytest

import ldmref
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.models.presets import preset


@pytest.fixture(scope="session")
def tiny64():
    """Return the same model in float64."""
    return ldmref.random_model("tiny", backend="numpy", dtype="float64")


@pytest.fixture(scope="session")
def two_encoders():
    """Return a small model with two text encoders and a pooled output, as SDXL."""
    config = preset("tiny")
    second = dataclasses.replace(config.text_encoder, projection_dim=24, eos_token_id=2)
    unet = dataclasses.replace(
        config.unet,
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 48,
    )
    config = dataclasses.replace(config, denoiser=unet, text_encoder_2=second)
    small = ldmref.random_model("tiny", backend="numpy")
    return LatentDiffusion(small.backend, config, init(model_spec(config)), small.tokenizer)
