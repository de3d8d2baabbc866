"""Rectified-CFG++ in a request: its parameters, its refusals, and a loop of its own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.apps.server.native import describe_sampler
from ldmref.errors import UsageError
from ldmref.models import preset
from ldmref.samplers import get_sampler

SIZE = {"width": 16, "height": 16}
NOISE = np.random.default_rng(3).standard_normal((1, 4, 8, 8)).astype(np.float32)
NAME = "rectified_cfgpp"


@pytest.fixture(scope="module")
def flow():
    return ldmref.random_model("sd3-tiny", seed=0, backend="numpy")


def published(cond, uncond, x, sigmas, strength, power):
    """Algorithm 1 with velocities; the published code takes strength from its guidance scale."""
    for s, after in pairwise(sigmas):
        v = (x - cond(x, s)) / s
        middle = 0.5 * (s + after)
        half = x + (middle - s) * v
        change = (uncond(half, middle) - cond(half, middle)) / middle
        x = x + (after - s) * (v + strength * (1.0 - s) ** power * change)
    return x


@pytest.mark.parametrize(("sampler", "power"), [(NAME, 0.0), (f"{NAME}:power=1.5", 1.5)])
def test_a_request_is_the_published_loop(flow, sampler, power):
    sigmas = [1.0, 0.8, 0.4, 0.0]
    options = {"negative_prompt": "dog", "cfg_scale": 4.5, "sigmas": sigmas, **SIZE}
    got = modes.txt2img(flow, "cat", sampler=sampler, latents=NOISE, **options)
    cond, uncond = (ldmref.denoiser(flow, prompt, cfg_scale=1.0) for prompt in ("cat", "dog"))
    want = published(cond, uncond, NOISE, sigmas, 4.5, power)
    np.testing.assert_allclose(got.latents, want, atol=1e-4 * np.abs(want).max())
    assert got.params["sampler"] == sampler


def test_strength_power_and_negative_prompt_change_the_image(flow):
    def latents(sampler=NAME, negative="dog", scale=4.5):
        options = {"seed": 1, "steps": 3, "cfg_scale": scale, "negative_prompt": negative, **SIZE}
        return modes.txt2img(flow, "cat", sampler=sampler, **options).latents

    plain = latents()
    assert np.isfinite(plain).all()
    for other in (latents(f"{NAME}:power=2"), latents(negative="house"), latents(scale=2.0)):
        assert np.abs(other - plain).max() > 1e-4
    np.testing.assert_allclose(latents(scale=0.0), latents("euler", scale=1.0), atol=1e-5)


def test_every_mode_has_it_and_its_record_repeats_it(flow, tmp_path):
    options = {"seed": 1, "steps": 2, "cfg_scale": 3.0, "sampler": f"{NAME}:power=0.5"}
    result = modes.txt2img(flow, "cat", **options, **SIZE)
    image = result.images[0]
    changed = modes.img2img(flow, "dog", image, strength=0.8, **options)
    mask = np.zeros((16, 16), np.uint8)
    mask[:8] = 255
    filled = modes.inpaint(flow, "dog", image, Image.fromarray(mask), **options)
    assert np.isfinite(changed.latents).all() and np.isfinite(filled.latents).all()
    again = modes.txt2img(flow, "cat", **options | {"sampler": result.params["sampler"]}, **SIZE)
    np.testing.assert_array_equal(again.latents, result.latents)


def test_the_cost_counts_three_predictions_of_a_step(flow):
    options = {"steps": 4, "cfg_scale": 3.0, "sampler": NAME, **SIZE}
    assert modes.plan("txt2img", flow, prompt="cat", **options).estimate(flow).evaluations == 12


@pytest.mark.parametrize(
    ("model", "asked", "says"),
    [
        ("sd15", {"sampler": NAME}, "made for flow matching, which 'sd15' does not use"),
        ("sd3-medium", {"sampler": NAME, "guidance": "rescale"}, "guides itself, so guidance"),
        ("flux-dev", {"sampler": NAME}, "reads the guidance scale itself"),
        ("sd3-medium", {"sampler": f"{NAME}:power=-1"}, "power"),
        ("sd3-medium", {"sampler": f"{NAME}:gamma=1"}, "gamma"),
        ("sd3-medium", {"sampler": "euler:power=1"}, "sampler 'euler' takes no parameters"),
        ("sd3-medium", {"sampler": f"{NAME}:power"}, "cannot read the sampler"),
    ],
)
def test_what_is_refused_before_weights_are_loaded(model, asked, says):
    with pytest.raises(UsageError, match=says) as caught:
        modes.plan("txt2img", preset(model), prompt="cat", **asked)
    message = str(caught.value)
    assert "\n" not in message and (caught.value.hint or "from 0 to 100" in message)


def test_lists_show_its_parameters(capsys):
    assert main(["samplers"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if NAME in line]
    assert "2 per step" in line and "parameters power=0.0" in line
    assert describe_sampler(NAME, get_sampler(NAME))["defaults"] == {"power": 0.0}
    assert get_sampler("euler").defaults == {}


def test_another_program_s_name():
    assert get_sampler("rectified_cfg++:power=2").name == f"{NAME}:power=2"
