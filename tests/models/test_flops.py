"""Estimates of operations are those that a traced backend counts."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref.backends import get_backend
from ldmref.backends.numpy import NumpyBackend
from ldmref.backends.traced import TracedBackend
from ldmref.models import flops
from ldmref.models.conditioning import Conditioning
from ldmref.models.flops import count_decoder_flops, count_unet_flops, measure_flops_per_second
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import flatten, init
from ldmref.models.presets import preset

ONCE_PER_IMAGE = ("attn2.to_k", "attn2.to_v")
SMALL = ("time_emb", "class_embedding", "add_embedding")  # one row per image: left out


def counted(model, compute):
    """Return the operations of the records, by the layer that they belong to."""
    layers = {id(x): name for tree in model.params.values() for name, x in flatten(tree).items()}
    traced = copy.copy(model)
    traced.backend = TracedBackend(model.backend, layer_of=layers)
    compute(traced)
    records = traced.backend.records
    assert {record.layer for record in records if record.name == "conv2d"} <= set(layers.values())
    return sum(r.flops for r in records if not any(x in r.layer for x in ONCE_PER_IMAGE + SMALL))


def unconditional():
    """Attention blocks without prompts, resampling with residual blocks, attention in the VAE."""
    tiny = preset("tiny")
    unet = replace(
        tiny.unet,
        attention="self",
        cross_attention_dim=0,
        resnet_updown=True,
        block_out_channels=(16, 24, 32),
        attention_levels=(True, False, True),
        num_heads=(2, 2, 4),
        transformer_layers_per_block=(1, 1, 1),
    )
    vae = replace(
        tiny.vae,
        block_out_channels=(8, 16, 12),
        attention_levels=(True, False, True),
        codebook_size=7,
    )
    config = replace(
        tiny, denoiser=unet, vae=vae, text_encoder=replace(tiny.text_encoder, model_type="none")
    )
    spec = model_spec(config)
    backend = get_backend("numpy", speed="exact")
    return LatentDiffusion(backend, config, init(spec), ldmref.random_model("tiny").tokenizer)


@pytest.fixture(scope="module", params=["tiny", "emoji", "unconditional"])
def model(request):
    if request.param == "emoji":
        return ldmref.load(backend="numpy", speed="exact")
    if request.param == "unconditional":
        return unconditional()
    return ldmref.random_model("tiny", backend="numpy", speed="exact")


@pytest.mark.parametrize("scale", [1, 2])
def test_the_unet_and_the_decoder(model, scale):
    config = model.config
    spec = model_spec(model.config)
    width = scale * config.defaults.width
    height = 2 * config.defaults.height
    latents = np.zeros((1, *model.latent_shape(width, height)), np.float32)
    states = model.encode_text(["a"]) if config.text_encoders else None
    want = counted(model, lambda m: m.unet(latents, np.zeros(1), Conditioning(states)))
    assert count_unet_flops(config, width, height) == want
    want = counted(model, lambda m: m.decode(latents))
    assert count_decoder_flops(spec, config, width, height) == want


# -- how fast the machine is ----------------------------------------------------------------------


class Timed(NumpyBackend):
    """Convolves in a time that the test sets, by its own clock."""

    now = 0.0
    per_flop = 0.0
    overhead = 0.0
    runs = ()

    def conv2d(self, x, weight, bias=None, stride=1, padding=0):
        assert (stride, padding) == (1, 1) and not self.pending
        operations = 2 * weight.size * x.shape[2] * x.shape[3]
        self.now += self.overhead / (len(self.runs) + 1) + self.per_flop * operations
        self.runs = (*self.runs, weight.shape[0])
        self.pending = True
        return x

    def synchronize(self):
        self.pending = False

    pending = True


@pytest.fixture
def timed(monkeypatch):
    ops = Timed()
    monkeypatch.setattr(flops.time, "perf_counter", lambda: ops.now)
    return ops


@pytest.mark.parametrize("speed,channels", [(1e9, 64), (2e11, 512), (1e15, 1024)])
def test_the_speed_is_that_of_a_convolution_that_lasts_long_enough(timed, speed, channels):
    """It is the best of three at the first size beyond ten milliseconds; calls do not count."""
    timed.per_flop = 1.0 / speed
    assert measure_flops_per_second(timed) == pytest.approx(speed, rel=1e-6)
    assert timed.runs[-3:] == (channels,) * 3 and len(timed.runs) % 3 == 0
    assert measure_flops_per_second(timed) == pytest.approx(speed, rel=1e-6)
    assert timed.runs[-3:] == (channels,) * 3  # not measured again


def test_the_fastest_of_three_counts(timed):
    timed.per_flop = 1e-9
    timed.overhead = 1.0
    assert measure_flops_per_second(timed) == pytest.approx(75497472 / (75497472e-9 + 1 / 3))


def test_a_clock_that_stands_still_is_no_division_by_zero(timed):
    assert 0 < measure_flops_per_second(timed) < float("inf")


def test_the_speed_here_is_measured_once():
    ops = get_backend("numpy")
    assert measure_flops_per_second(ops) == measure_flops_per_second(ops) > 1e6
