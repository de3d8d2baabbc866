"""What remains of an image before the first step: the closed form, written from the tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import UsageError
from ldmref.explore import noised_image
from ldmref.math import q_sample
from ldmref.modes.generate import decode_images
from ldmref.samplers.noise import Streams

SIZE = 16
STEPS = 10


@pytest.fixture(scope="module")
def photo():
    pixels = np.random.default_rng(4).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def latents_of(model, photo):
    pixels = np.asarray(photo, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    return model.backend.to_numpy(model.encode_image(model.backend.asarray(pixels)))


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.9])
def test_the_state_is_the_closed_form_of_its_timestep(tiny, photo, strength):
    asked = {"prompt": "a", "image": photo, "strength": strength, "steps": STEPS, "seed": 7}
    start = noised_image(tiny, **asked)
    job = modes.plan("img2img", tiny, **asked).job
    first = STEPS - math.floor(STEPS * strength)
    t = int(job.make_schedule(tiny.config).timesteps[first])
    scheduler = tiny.config.scheduler
    betas = np.linspace(
        scheduler.beta_start**0.5, scheduler.beta_end**0.5, scheduler.num_train_timesteps
    )
    alpha_bar = np.cumprod(1 - betas**2)[t]
    eps = Streams([7], tiny.latent_shape(SIZE, SIZE), "philox")()
    expected = q_sample(latents_of(tiny, photo), alpha_bar, eps)
    assert np.abs(start.latents - expected).max() < 2e-5
    assert start.share == pytest.approx(math.sqrt(alpha_bar), rel=1e-6)
    assert start.noise == pytest.approx(math.sqrt(1 - alpha_bar), rel=1e-6)
    assert (start.taken, start.steps) == (STEPS - first, STEPS)
    [image] = decode_images(tiny, start.latents)
    assert np.array_equal(np.asarray(image), np.asarray(start.image))


def test_the_ends_are_the_image_and_almost_only_noise(tiny, photo):
    asked = {"prompt": "", "image": photo, "steps": STEPS, "seed": 7}
    kept = noised_image(tiny, strength=0, **asked)
    assert kept.share == 1.0 and kept.taken == 0
    assert np.array_equal(np.asarray(kept.image), np.asarray(photo))
    gone = noised_image(tiny, strength=1, **asked)
    assert gone.share < 0.6 and gone.taken == STEPS


def test_what_is_not_masked_remains(tiny, photo):
    mask = Image.new("L", photo.size)
    mask.paste(255, (0, 0, SIZE, SIZE // 2))
    start = noised_image(
        tiny, "inpaint", prompt="", image=photo, mask=mask, strength=0.8, steps=STEPS, seed=7
    )
    found = np.asarray(start.image)
    assert np.array_equal(found[SIZE // 2 :], np.asarray(photo)[SIZE // 2 :])
    assert not np.array_equal(found[: SIZE // 2], np.asarray(photo)[: SIZE // 2])


def test_the_scales_of_a_flow_have_the_same_variance(photo):
    model = ldmref.random_model("sd3-tiny", backend="numpy")
    start = noised_image(model, prompt="", image=photo, strength=0.5, steps=STEPS, seed=7)
    job = modes.plan("img2img", model, prompt="", image=photo, strength=0.5, steps=STEPS).job
    t = float(job.make_schedule(model.config).sigmas[STEPS // 2])
    assert start.share == pytest.approx((1 - t) / math.hypot(t, 1 - t), rel=1e-6)
    assert start.share**2 + start.noise**2 == pytest.approx(1)


def test_a_mode_without_an_image_is_refused(tiny):
    with pytest.raises(UsageError, match="txt2img starts from no image") as caught:
        noised_image(tiny, "txt2img", prompt="a")
    assert caught.value.hint == "allowed are img2img and inpaint"


def test_pure_noise_shows_nothing_of_the_image(tiny, photo):
    """Inpainting of the whole image at strength 1."""
    mask = Image.new("L", photo.size, 255)
    asked = {"prompt": "", "mask": mask, "strength": 1.0, "steps": STEPS, "seed": 7}
    start = noised_image(tiny, "inpaint", image=photo, **asked)
    assert (start.share, start.noise) == (0.0, 1.0)
    other = noised_image(tiny, "inpaint", image=Image.new("RGB", photo.size), **asked)
    assert np.array_equal(start.latents, other.latents)
    assert np.array_equal(np.asarray(start.image), np.asarray(other.image))
