"""Inpainting as people use it: masked content, only the masked region, resampling."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rounding import same_latents

import ldmref
from ldmref import modes
from ldmref.errors import LdmrefError, UsageError
from ldmref.models.presets import preset
from ldmref.modes.channels import encode_image
from ldmref.modes.image_parameters import FILLS
from ldmref.modes.masks import crop_region, fill_surroundings, find_region
from ldmref.samplers.noise import Streams
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.samplers.spacings import sigma_grid


def pixels(image):
    return np.asarray(image, np.int16)


def noise_image(width, height):
    draw = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(draw)


def mask_with(box, size=(16, 16)):
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


@pytest.fixture
def idle(monkeypatch):
    """Return a model whose network sees no noise. The sampler leaves its start as it was."""
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    monkeypatch.setattr(model, "predict", lambda latents, t, context: 0 * latents)
    return model


# -- masked content -------------------------------------------------------------------------------


@pytest.mark.parametrize("rng", ["philox", "torch"])
@pytest.mark.parametrize("fill", FILLS)
def test_content_below_the_mask(idle, fill, rng):
    """A network that sees no noise takes the start itself for the clean latents."""
    image = noise_image(16, 16)
    mask = mask_with((0, 0, 8, 16))
    events = []
    asked = dict(fill=fill, seed=3, steps=4, rng=rng, callback=events.append)
    r = modes.inpaint(idle, "a", image, mask, 0.5, **asked)
    streams = Streams([3], (4, 8, 8), rng)
    first = [streams(), streams()]  # torch: of the posterior, then the noise

    def latents(image):
        mean, std, _ = encode_image(idle, image)
        return mean + std * first[0] if rng == "torch" else mean

    eps = first[1] if rng == "torch" else first[0]
    content = {
        "original": latents(image),
        "noise": eps,
        "fill": latents(fill_surroundings(image, mask)),
        "nothing": 0.0 * eps,
    }[fill]
    levels = sampling_sigmas(idle.config.scheduler)
    sigma = sigma_grid(levels, "leading", 4, "sigma_min", 1)[2]
    left = np.s_[..., :4]
    right = np.s_[..., 4:]
    for side, start in ((left, content), (right, latents(image))):
        same_latents(events[0].x0[side], (start + sigma * eps)[side], start, sigma * eps)
    assert (pixels(r[0])[:, 8:] == pixels(image)[:, 8:]).all()
    assert r.params["fill"] == fill and not r.warnings


def test_at_strength_one_the_content_is_not_seen(tiny):
    image = noise_image(16, 16)
    mask = mask_with((0, 0, 8, 16))
    plain = modes.inpaint(tiny, "a", image, mask, seed=3)
    other = modes.inpaint(tiny, "a", image, mask, seed=3, fill="nothing")
    assert (pixels(plain[0]) == pixels(other[0])).all() and "strength 1" in other.warnings[0]


def test_filling_spreads_the_colours_around():
    image = Image.new("RGB", (40, 20), (200, 0, 0))
    image.paste((0, 0, 200), (20, 0, 40, 20))
    image.paste((0, 255, 0), (5, 5, 9, 9))  # to be covered
    got = pixels(fill_surroundings(image, mask_with((4, 4, 10, 10), image.size)))
    assert (got[4:10, 4:10] == (200, 0, 0)).all()
    got = pixels(fill_surroundings(image, mask_with((12, 4, 28, 16), image.size)))
    assert got[10, 13, 0] > got[10, 19, 0] > got[10, 26, 0]  # from red to blue
    kept = np.asarray(mask_with((12, 4, 28, 16), image.size)) == 0
    assert (got[kept] == pixels(image)[kept]).all()
    assert (pixels(fill_surroundings(image, Image.new("L", image.size, 255))) == 128).all()


# -- only the masked region -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "padding", "size", "want"),
    [
        ((40, 40, 50, 50), 0, (64, 64), (40, 40, 50, 50)),
        ((40, 40, 50, 50), 5, (64, 64), (35, 35, 55, 55)),
        ((40, 40, 60, 50), 0, (64, 64), (40, 35, 60, 55)),
        ((40, 40, 60, 50), 0, (32, 64), (40, 25, 60, 65)),
        ((40, 0, 60, 10), 4, (64, 64), (36, 0, 64, 28)),  # moved inside
        ((0, 40, 10, 60), 0, (64, 64), (0, 40, 20, 60)),
        ((90, 70, 100, 80), 8, (64, 64), (82, 62, 100, 80)),
        ((10, 10, 90, 20), 0, (32, 64), (10, 0, 90, 80)),  # as tall as the image is
    ],
)
def test_the_region_to_draw(box, padding, size, want):
    assert find_region(mask_with(box, (100, 80)), padding, size) == want


@pytest.mark.parametrize(("blur", "strength"), [(0, 1.0), (3, 0.5)])
def test_an_image_of_any_size_comes_back_but_for_the_mask(tiny, blur, strength):
    image = noise_image(71, 53)
    mask = mask_with((30, 20, 41, 29), (71, 53))
    asked = dict(only_masked=True, padding=4, mask_blur=blur, seed=1)
    r = modes.inpaint(tiny, "a cat", image, mask, strength, **asked)
    changed = (pixels(r[0]) != pixels(image)).any(axis=2)
    assert r[0].size == (71, 53) and r.latents.shape == (1, 4, 8, 8)
    assert changed[20:29, 30:41].mean() > 0.9
    assert not changed[:, : 30 - 4 * blur].any() and not changed[: 20 - 4 * blur].any()
    assert not changed[:, 41 + 4 * blur :].any() and not changed[29 + 4 * blur :].any()
    known = {k: r.params[k] for k in ("only_masked", "padding", "width", "height")}
    assert known == dict(only_masked=True, padding=4, width=16, height=16)
    assert json.loads(json.dumps(r.params)) == r.params


def test_the_region_is_drawn_as_if_it_were_the_image(tiny):
    """At the region's own size nothing is scaled."""
    image = noise_image(64, 48)
    mask = mask_with((22, 20, 30, 28), (64, 48))
    whole = modes.inpaint(tiny, "a", image, mask, only_masked=True, padding=4, seed=1)
    box = (18, 16, 34, 32)
    alone = modes.inpaint(tiny, "a", image.crop(box), mask.crop(box), seed=1)
    assert (whole.latents == alone.latents).all()
    assert (pixels(whole[0].crop(box)) == pixels(alone[0])).all()


def test_a_given_size_and_a_mask_that_is_empty(tiny):
    image = noise_image(64, 48)
    mask = mask_with((22, 20, 30, 28), (64, 48))
    r = modes.inpaint(tiny, "a", image, mask, only_masked=True, width=32, height=16, seed=1)
    assert r.latents.shape == (1, 4, 8, 16)
    r = modes.inpaint(tiny, "a", image, Image.new("L", (64, 48), 0), only_masked=True, seed=1)
    assert (pixels(r[0]) == pixels(image)).all() and "all black" in r.warnings[0]
    with pytest.raises(UsageError, match="own size"):
        modes.inpaint(tiny, "a", image, mask, width=32)


def test_a_single_pixel_is_not_lost_when_the_region_is_scaled_down():
    mask = mask_with((500, 300, 501, 301), (1000, 1000))
    _, small = crop_region(
        noise_image(8, 8).resize((1000, 1000)), mask, (0, 0, 1000, 1000), (16, 16)
    )
    assert (np.asarray(small) > 0).sum() == 1 and np.asarray(small)[4, 8] > 0
    _, large = crop_region(mask.convert("RGB"), mask, (496, 296, 504, 304), (16, 16))
    assert (np.asarray(large) == 255).sum() == 4


# -- resampling -----------------------------------------------------------------------------------


def test_resampling_goes_on_and_keeps_the_known_part(tiny):
    image = noise_image(16, 16)
    mask = mask_with((0, 0, 8, 16))
    asked = dict(seed=1, steps=6, sampler="dpmpp_2m")
    plain = modes.inpaint(tiny, "a", image, mask, **asked)
    once = modes.inpaint(tiny, "a", image, mask, resample=(2, 1), **asked)
    events = []
    often = modes.inpaint(tiny, "a", image, mask, resample=(2, 3), callback=events.append, **asked)
    assert (once.latents == plain.latents).all() and (often.latents != plain.latents).any()
    assert [e.step for e in events] == list(range(14)) and {e.steps for e in events} == {14}
    assert (pixels(often[0])[:, 8:] == pixels(image)[:, 8:]).all()
    assert often.params["resample"] == [2, 3] and "resample" not in plain.params
    again = modes.inpaint(tiny, "a", image, mask, resample=often.params["resample"], **asked)
    assert (again.latents == often.latents).all()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"fill": "latent noise"}, "E-FILL"),
        ({"fill": 1}, "E-FILL"),
        ({"only_masked": 1}, "E-ONLY-MASKED"),
        ({"padding": -1}, "E-PADDING"),
        ({"padding": 1.5}, "E-PADDING"),
        ({"resample": 10}, "E-RESAMPLE"),
        ({"resample": (1, 2, 3)}, "E-RESAMPLE"),
        ({"resample": "12"}, "E-RESAMPLE"),
        ({"resample": (0, 2)}, "E-RESAMPLE-JUMP-LENGTH"),
        ({"resample": (5, 2)}, "E-RESAMPLE-JUMP-LENGTH"),  # of 4 steps
        ({"resample": (2, 0)}, "E-RESAMPLE-TIMES"),
        ({"resample": (2, 101)}, "E-RESAMPLE-TIMES"),
    ],
)
def test_options_are_checked_before_anything_is_computed(arguments, code):
    image = Image.new("RGB", (16, 16))
    with pytest.raises(LdmrefError) as caught:
        modes.plan(
            "inpaint", preset("tiny"), prompt="a", image=image, mask=image, steps=4, **arguments
        )
    assert caught.value.code == code


@pytest.mark.parametrize(("size", "alone"), [((96, 64), True), ((18, 14), False), ((13, 40), True)])
def test_models_of_one_size_repaint_the_region_alone(size, alone):
    """Far from the trained size, and then with a warning; unless the caller says otherwise."""
    tiny = preset("tiny")  # 16 x 16
    config = replace(tiny, defaults=replace(tiny.defaults, one_size=True))
    image = Image.new("RGB", size, "green")
    mask = Image.new("L", size)
    mask.paste(255, (4, 4, 10, 10))
    asked = dict(prompt="a", image=image, mask=mask, seed=1)
    plan = modes.plan("inpaint", config, **asked)
    warned = any("only the region around the mask" in line for line in plan.warnings)
    assert plan.params["only_masked"] is alone is warned
    assert (plan.job.width, plan.job.height) == ((16, 16) if alone else size)
    plan = modes.plan("inpaint", config, **asked, only_masked=True)
    assert not any("only the region" in line for line in plan.warnings)
    if size[0] % 2 == 0:
        plan = modes.plan("inpaint", config, **asked, only_masked=False)
        assert (plan.job.width, plan.job.height) == size and not plan.params["only_masked"]
        assert modes.plan("inpaint", tiny, **asked).params["only_masked"] is False
