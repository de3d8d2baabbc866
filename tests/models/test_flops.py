"""Estimates of operations agree with those that a traced backend counts."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import ldmref
from ldmref.backends import get_backend
from ldmref.backends.traced import TracedBackend
from ldmref.models.conditioning import Conditioning
from ldmref.models.flops import decoder_flops, flops_per_second, unet_flops
from ldmref.models.model import model_spec


def counted(model, compute):
    traced = copy.copy(model)
    traced.backend, traced._compiled = TracedBackend(model.backend), {}
    compute(traced)
    return sum(record.flops for record in traced.backend.records)


@pytest.fixture(scope="module", params=["tiny", "emoji"])
def model(request):
    if request.param == "emoji":
        return ldmref.load(backend="numpy", speed="exact")
    return ldmref.random_model("tiny", backend="numpy", speed="exact")


@pytest.mark.parametrize("scale", [1, 2])
def test_the_unet_and_the_decoder(model, scale):
    config, spec = model.config, model_spec(model.config)
    width, height = scale * config.defaults.width, config.defaults.height
    latents = np.zeros((1, *model.latent_shape(width, height)), np.float32)
    states = model.encode_text(["a"])
    want = counted(model, lambda m: m.unet(latents, np.zeros(1), Conditioning(states)))
    assert unet_flops(spec, config, width, height) == pytest.approx(want, rel=0.1)
    want = counted(model, lambda m: m.decode(latents))
    assert decoder_flops(spec, config, width, height) == pytest.approx(want, rel=0.1)


def test_the_speed_is_measured_once():
    ops = get_backend("numpy")
    assert flops_per_second(ops) == flops_per_second(ops) > 1e6
