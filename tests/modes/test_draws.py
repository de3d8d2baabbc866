"""The order in which the modes sample noise, with an idle network and a stream that counts.

A network that sees no noise leaves its input as it was, so the final latents are a sum of noises:
start + sum of sigma_up times the noise of each step. The test is which noise is in which place.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from rounding import same_latents

import ldmref
from ldmref import modes
from ldmref.errors import UsageError
from ldmref.io.images.pil import to_array
from ldmref.modes.channels import encode_image
from ldmref.samplers.noise import STREAMS
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.samplers.spacings import sigma_grid

SHAPE = (4, 8, 8)
STEPS = 4
LIKE_DIFFUSERS = ("torch", "cuda:A100")
RNGS = ("philox", "a1111-gpu", *LIKE_DIFFUSERS)


@pytest.fixture(scope="module")
def idle():
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    model.predict = lambda latents, t, context: 0 * latents
    return model


@pytest.fixture(scope="module")
def image():
    stream = np.random.default_rng(0)
    return Image.fromarray(stream.integers(0, 256, (16, 16, 3), np.uint8))


@pytest.fixture
def count(monkeypatch):
    """Return the list of noises that the streams were asked for, as (rng, seed, shape)."""
    calls = []

    def counting(rng, kind):
        class Counting:
            def __init__(self, seed):
                self.seed = seed
                self.stream = kind(seed)

            def draw(self, shape):
                calls.append((rng, self.seed, shape))
                return self.stream.draw(shape)

        return Counting

    for rng, kind in list(STREAMS.items()):
        monkeypatch.setitem(STREAMS, rng, counting(rng, kind))
    return calls


def levels(model, first_step=0):
    config = model.config.scheduler
    grid = (STEPS, config.final_sigma, config.steps_offset)
    return sigma_grid(sampling_sigmas(config), "leading", *grid)[first_step:]


def steps_noise(sigmas, draws):
    """Return the noise that eta = 1 adds step by step, from the given samples."""
    up = [b * np.sqrt(1 - (b / a) ** 2) for a, b in pairwise(sigmas)]
    return [s * d for s, d in zip(up, draws, strict=False) if s > 0]


def draws_of(rng, seed=4, n=9):
    stream = STREAMS[rng](seed)
    return [stream.draw(SHAPE).astype(float) for _ in range(n)]


ARGUMENTS = {"steps": STEPS, "seed": 4, "sampler": "ddim", "schedule": "leading", "eta": 1.0}


@pytest.mark.parametrize("rng", RNGS)
def test_txt2img_draws_noise_then_the_steps(idle, rng, count):
    r = modes.txt2img(idle, "a", rng=rng, **ARGUMENTS)
    assert count == [(rng, 4, SHAPE)] * (1 + STEPS) and r.params["rng"] == rng
    noise, *rest = draws_of(rng)
    sigmas = levels(idle)
    terms = [np.sqrt(1 + sigmas[0] ** 2) * noise, *steps_noise(sigmas, rest)]
    same_latents(r.latents[0], sum(terms) / np.hypot(1, sigmas[-1]), *terms)


@pytest.mark.parametrize("rng", RNGS)
def test_img2img_draws_the_posterior_under_torch_only(idle, image, rng, count):
    r = modes.img2img(idle, "a", image, 0.5, rng=rng, **ARGUMENTS)
    assert count == [(rng, 4, SHAPE)] * (
        2 + STEPS // 2 if rng in LIKE_DIFFUSERS else 1 + STEPS // 2
    )
    posterior = encode_image(idle, image)
    draws = draws_of(rng)
    sigmas = levels(idle, 2)
    known = posterior.mean
    if rng in LIKE_DIFFUSERS:
        known = known + posterior.std * draws.pop(0)
    terms = [known, sigmas[0] * draws[0], *steps_noise(sigmas, draws[1:])]
    same_latents(r.latents, sum(terms) / np.hypot(1, sigmas[-1]), *terms)


@pytest.mark.parametrize("rng", RNGS)
@pytest.mark.parametrize("given", [False, True])
def test_inpaint_draws_the_masked_image_too_under_torch(idle, image, rng, given):
    left = Image.new("L", (16, 16), 0)
    left.paste(255, (0, 0, 8, 16))
    own = np.random.default_rng(1).standard_normal((1, *SHAPE), np.float32)
    extra = {"latents": own} if given else {}
    r = modes.inpaint(idle, "a", image, left, 0.5, rng=rng, **ARGUMENTS, **extra)
    posterior = encode_image(idle, image)
    draws = draws_of(rng)
    sigmas = levels(idle, 2)
    known = posterior.mean
    if rng in LIKE_DIFFUSERS:
        known = known + posterior.std * draws.pop(0)
    noise = own[0] if given else draws.pop(0)
    if rng in LIKE_DIFFUSERS:
        draws.pop(0)
    terms = [known, sigmas[0] * noise, *steps_noise(sigmas, draws)]
    want = sum(terms) / np.hypot(1, sigmas[-1])
    same_latents(r.latents[..., :4], want[..., :4], *terms)
    same_latents(r.latents[..., 4:], known[..., 4:], *terms)


def test_a_mask_without_black_draws_as_much(idle, image):
    """The order does not depend on the mask, nor on whether the image is seen at all."""
    white = Image.new("L", (16, 16), 255)
    r = modes.inpaint(idle, "a", image, white, 1.0, rng="torch", **ARGUMENTS)
    draws = draws_of("torch")
    sigmas = levels(idle)
    terms = [np.sqrt(1 + sigmas[0] ** 2) * draws[1], *steps_noise(sigmas, draws[3:])]
    same_latents(r.latents[0], sum(terms) / np.hypot(1, sigmas[-1]), *terms)


@pytest.mark.parametrize("rng", RNGS)
def test_an_image_depends_on_its_seed_alone(idle, image, rng):
    some = {**ARGUMENTS, "rng": rng}
    alone = modes.img2img(idle, "a", image, 0.5, **{**some, "seed": 6}).latents[0]
    for size in (1, 3):
        r = modes.img2img(idle, "a", image, 0.5, **some, count=3, batch_size=size)
        same_latents(r.latents[2], alone)
    again = modes.img2img(idle, "a", image, 0.5, **{**some, "seed": 7}).latents[0]
    assert np.abs(alone - again).max() > 0.1


def test_the_posterior_is_that_of_encode_image(image):
    model = ldmref.random_model("tiny", backend="numpy", dtype="float64")
    x = model.backend.asarray(to_array([image]))
    noise = np.full((1, *SHAPE), 2.0)
    mean, std = model.encode_posterior(x)
    assert (mean == model.encode_image(x)).all() and std.min() > 0
    np.testing.assert_allclose(mean + 2 * std, model.encode_image(x, noise), rtol=1e-12)


def test_a_card_draws_in_the_order_of_diffusers():
    """The initial noise is the card's; A1111's stream has it, too, below one wave."""
    tiny = ldmref.random_model("tiny", backend="numpy")
    ask = dict(seed=5, steps=1, cfg_scale=1.0)
    card = modes.txt2img(tiny, "a", rng="cuda:A100", **ask)
    same = modes.txt2img(tiny, "a", rng="a1111-gpu", **ask)
    other = modes.txt2img(tiny, "a", rng="torch", **ask)
    assert np.array_equal(card.latents, same.latents)
    assert not np.array_equal(card.latents, other.latents)
    assert card.params["rng"] == "cuda:A100"
    with pytest.raises(UsageError, match="unknown rng 'cuda:A10'") as caught:
        modes.plan("txt2img", tiny, prompt="a", rng="cuda:A10")
    assert "cuda:A100" in caught.value.hint or "cuda:A10G" in caught.value.hint
