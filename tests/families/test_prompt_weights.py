"""Weights of words act in every family, or the family declares that they do not, and a run says so.

`FAMILIES` has a small model of each built-in family; one without a row fails.
"""

from __future__ import annotations

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.models.family import BUILT_IN, family_of
from ldmref.models.presets import preset

FAMILIES = {
    "latent-diffusion": "tiny",
    "sd3": "sd3-tiny",
    "flux": "flux-tiny",
    "z-image": "z-image-tiny",
    "flux2": "flux2-tiny",
    "flux3": "flux3-tiny",
    "krea2": "krea-2-tiny",
    "qwen-image-2.1": "qwen-image-2.1-tiny",
}
UNFELT = "prompt weights above 0 do nothing"


def draw(model, prompt, **arguments):
    asked = {"steps": 1, "seed": 1, "cfg_scale": 1, "width": 32, "height": 32} | arguments
    return modes.txt2img(model, prompt, prompt_weights="a1111", **asked)


def said(result):
    return any(UNFELT in line for line in result.warnings)


def test_every_family_has_a_row():
    assert set(FAMILIES) == set(BUILT_IN)
    assert all(family_of(preset(name)).name == family for family, name in FAMILIES.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_changes_the_image_or_a_warning_says_that_it_does_not(family):
    model = ldmref.random_model(FAMILIES[family])
    plain = draw(model, "a red cat")
    weighted = draw(model, "a (red:3) cat")
    change = np.abs(weighted.latents - plain.latents).max() / np.abs(plain.latents).max()
    felt = bool(change > 1e-5)
    assert felt is model.family.text.feels_weights
    assert said(weighted) is not felt and not said(plain)
    assert repr(model.config.name) in " ".join(weighted.warnings) or felt


def test_a_weight_of_the_negative_prompt_is_said_to_do_nothing_too():
    model = ldmref.random_model("z-image-tiny")
    assert said(draw(model, "a red cat", negative_prompt="(blue:2)", cfg_scale=3))
    assert not said(draw(model, "a red cat", negative_prompt="(blue:2)"))  # nothing reads it


def test_a_weight_of_zero_acts():
    model = ldmref.random_model("z-image-tiny")
    without = draw(model, "a (red:0) cat")
    assert not said(without)
    assert not np.allclose(without.latents, draw(model, "a red cat").latents, rtol=1e-3)
