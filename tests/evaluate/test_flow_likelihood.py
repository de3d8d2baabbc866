"""The likelihood of models of flow matching, and encoding in batches."""

from __future__ import annotations

import math

import numpy as np
import pytest

import ldmref
from ldmref.evaluate.images import (
    chain_table,
    encode_images,
    host_denoiser,
    likelihood,
    predictor,
)
from ldmref.modes.text import encode_conditioning

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), np.uint8)


@pytest.fixture(params=["tiny", "sd3-tiny"])
def model(request):
    return ldmref.random_model(request.param, backend="numpy", dtype="float64")


def test_images_are_encoded_in_batches_of_any_size(model):
    one, several = (encode_images(model, IMAGES, np.random.default_rng(1), n) for n in (3, 2))
    assert several.x.shape == IMAGES.shape
    for name in ("x", "mean", "logvar"):
        found, want = getattr(several, name), getattr(one, name)
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-12 * np.abs(want).max())


def test_the_chain_reads_the_same_prediction_as_a_sampler(model):
    """At each of its levels, which a flow meets on its own path at another scale.

    Both give the network the same numbers but for rounding: 1e-10 is 10^6 roundings.
    """
    table = chain_table(model.config.scheduler)
    rng = np.random.default_rng(0)
    t = np.array([1, 300, 700])
    x0, noise = rng.standard_normal((2, 3, *model.latent_shape(16, 16)))
    a, b = (np.sqrt(level)[:, None, None, None] for level in (table[t], 1.0 - table[t]))
    condition = encode_conditioning(model, ["a red heart"] * 3, (16, 16))
    found, _ = predictor(model, condition)(a * x0 + b * noise, t)
    for i, level in enumerate(table[t]):
        sigma = math.sqrt((1.0 - level) / level)
        alone = encode_conditioning(model, ["a red heart"], (16, 16))
        x = (x0 + sigma * noise)[i : i + 1]
        want = np.asarray(host_denoiser(model, alone)(x, sigma))
        scale = np.abs(want).max()
        np.testing.assert_allclose(found[i : i + 1], want, rtol=0, atol=1e-10 * scale)


def test_a_flow_has_a_bound_and_an_exact_likelihood():
    model = ldmref.random_model("sd3-tiny", backend="numpy")
    rng = np.random.default_rng(0)
    encoded = encode_images(model, IMAGES, rng, 2)
    section = likelihood(model, encoded, [""] * 3, rng, timesteps=3, flow=(1, 2), batch=2)
    values = {row.name: row.value for row in section.rows}
    assert all(math.isfinite(value) for value in values.values())
    assert values["diffusion: prior, L_T"] == pytest.approx(0.0, abs=1e-3)  # noise hides all
    assert "flow, exact -log p(z)" in values


def test_another_chain_has_the_networks_own_timesteps(model):
    """The same levels in another order of numbers: a half of the chain."""
    table = chain_table(model.config.scheduler)[:800]
    rng = np.random.default_rng(0)
    xt = rng.standard_normal((3, *model.latent_shape(16, 16)))
    condition = encode_conditioning(model, ["a red heart"] * 3, (16, 16))
    want, _ = predictor(model, condition)(xt, np.array([1, 301, 701]))
    found, _ = predictor(model, condition, table[1::2])(xt, np.array([0, 150, 350]))
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-10 * np.abs(want).max())
