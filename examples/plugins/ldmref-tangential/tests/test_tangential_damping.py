"""Tangential damping, compared with a singular value decomposition and with diffusers."""

from __future__ import annotations

import numpy as np
import pytest
from ldmref_tangential import TangentialDamping, damp

import ldmref
from ldmref import modes

RNG = np.random.default_rng(0)
COND = RNG.standard_normal((3, 4, 5, 6))
UNCOND = 0.8 * COND + 0.3 * RNG.standard_normal((3, 4, 5, 6))


def test_the_projection_is_that_of_the_singular_value_decomposition():
    for cond, uncond in ((COND, UNCOND), (0.3 * COND, UNCOND), (-COND, UNCOND), (COND, COND)):
        for c, u, got in zip(cond, uncond, damp(uncond, cond), strict=True):
            _, _, v = np.linalg.svd(np.stack([c.ravel(), u.ravel()]), full_matrices=False)
            expected = (u.ravel() @ v[0]) * v[0]
            np.testing.assert_allclose(got.ravel(), expected, atol=1e-12)


def test_the_guided_prediction():
    guided, memory = TangentialDamping()({"cond": COND, "uncond": UNCOND}, 1.0, 5.0, ())
    damped = damp(UNCOND, COND)
    np.testing.assert_allclose(guided, damped + 5.0 * (COND - damped), atol=1e-12)
    assert memory == ()


@pytest.mark.parametrize(("scale", "needed"), [(0.0, "uncond"), (1.0, "cond")])
def test_scales_that_need_one_prediction(scale, needed):
    guidance = TangentialDamping()
    assert guidance.needs(1.0, scale) == (needed,)
    assert guidance({needed: COND}, 1.0, scale, ())[0] is COND


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_against_diffusers(dtype):
    torch = pytest.importorskip("torch")
    guiders = pytest.importorskip("diffusers.guiders.tangential_classifier_free_guidance")
    kind = getattr(torch, dtype)
    cond, uncond = (torch.from_numpy(x).to(kind) for x in (COND, UNCOND))
    theirs = guiders.normalized_guidance(cond, uncond, 5.0)
    ours, _ = TangentialDamping()({"cond": cond, "uncond": uncond}, 1.0, 5.0, ())
    assert ours.dtype == kind
    error = (ours.double() - theirs.double()).abs().max()
    assert error < (0.2 if dtype == "bfloat16" else 1e-4)


def test_an_image_and_its_record():
    model = ldmref.random_model("tiny")
    results = [
        modes.txt2img(model, "cat", seed=1, steps=3, guidance=guidance)
        for guidance in (TangentialDamping(), None)
    ]
    assert results[0].params["guidance"] == {"name": "tcfg"}
    assert np.abs(results[0].latents - results[1].latents).max() > 1e-6
