"""The level at which runs from an image begin, with levels of one's own and with a flow map."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from small_models import save_map

import ldmref
from ldmref import modes
from ldmref.modes import RunObserver
from ldmref.modes.levels import begins_low, begins_with_noise
from ldmref.samplers import make_schedule
from ldmref.samplers.schedule import sampling_sigmas

IMAGE = Image.new("RGB", (16, 16), "teal")
MASK = Image.new("L", (16, 16), 255)
FROM_IMAGE = {"img2img": {"image": IMAGE}, "inpaint": {"image": IMAGE, "mask": MASK}}
FROM_NOISE = {"txt2img": {}, "interpolate": {"prompt_b": "b", "positions": 2}}


class Begin(RunObserver):
    """The initial state of a run, its noise levels and its timesteps."""

    def started(self, trajectory):
        first = trajectory.visits[0]
        self.x = np.asarray(trajectory.x)
        self.schedule = trajectory.schedule
        self.levels = trajectory.schedule.sigmas[first:]
        self.timesteps = trajectory.schedule.timesteps[first:]
        return trajectory


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """Return a model with noise levels, one of flow matching, and their flow maps."""
    flow = ldmref.random_model("sd3-tiny", backend="numpy")
    folder = tmp_path_factory.mktemp("maps") / "map"
    save_map(folder, tiny)
    return {"eps": tiny, "flow": flow, "map": ldmref.load(folder, backend="numpy")}


def run(model, mode, **parameters):
    begin = Begin()
    given = {"prompt": "a", "seed": 1, **FROM_IMAGE.get(mode, {}), **FROM_NOISE.get(mode, {})}
    result = modes.plan(mode, model, **given | parameters).run(model, observer=begin)
    return result, begin


def largest(model):
    config = model.config.scheduler
    return config.path.level(float(sampling_sigmas(config)[-1]))


def q_sample(model, sigma, noise):
    """The image with noise of a level, x = alpha x0 + sigma eps."""
    pixels = np.asarray(IMAGE, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1.0
    x0 = np.asarray(model.encode_image(pixels))
    return model.config.scheduler.path.noised(x0, noise, sigma)


# -- levels of one's own --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["eps", "flow", "map"])
@pytest.mark.parametrize("mode", FROM_IMAGE)
@pytest.mark.parametrize("rng", ["philox", "torch"])
def test_levels_that_begin_low_begin_with_the_image(models, kind, mode, rng):
    model = models[kind]
    _, begin = run(model, mode, sigmas=[0.05, 0.0], strength=1.0, rng=rng)
    result, noisier = run(model, mode, sigmas=[0.1, 0.0], strength=1.0, rng=rng)
    alpha = model.config.scheduler.path.alpha
    x0, again = begin.x - 0.05 * noisier.x / 0.1, 1.0  # x = alpha x0 + sigma eps at both levels
    x0 = x0 / (alpha(0.05) - 0.05 / 0.1 * alpha(0.1))
    eps = (noisier.x - alpha(0.1) * x0) / 0.1
    assert np.std(eps) == pytest.approx(again, rel=0.35)
    if rng == "philox":  # which takes the mean of the encoder
        np.testing.assert_allclose(begin.x, q_sample(model, 0.05, eps), atol=2e-5)
    assert any(
        "sigmas begin at 0.1" in line and "shows through" in line for line in result.warnings
    )


@pytest.mark.parametrize("kind", ["eps", "flow"])
@pytest.mark.parametrize("share", [1.0, 0.995, 0.985, 0.5])
def test_levels_that_begin_at_the_largest_ignore_the_image_at_strength_1(models, kind, share):
    """People round the largest level, which is still the largest; a lower one begins with it."""
    model = models[kind]
    sigmas = [share * largest(model), 0.1 * largest(model), 0.0]
    black = Image.new("RGB", (16, 16))
    starts = [
        run(model, "img2img", image=i, sigmas=sigmas, strength=1.0)[1].x for i in (IMAGE, black)
    ]
    assert np.array_equal(*starts) == (share > 0.99)
    plan = modes.plan("img2img", model, prompt="a", image=IMAGE, sigmas=sigmas, strength=1.0)
    assert begins_with_noise(model.config, plan.job) == (share > 0.99)
    assert begins_low(model.config, plan.job) == (share < 0.99)
    assert not begins_with_noise(model.config, replace(plan.job, first_step=1))


@pytest.mark.parametrize("mode", FROM_NOISE)
@pytest.mark.parametrize(("sigmas", "low"), [([0.05, 0.0], True), ([13.0, 1.0, 0.0], False)])
def test_pure_noise_at_a_low_level_is_warned_of(models, mode, sigmas, low):
    result, _ = run(models["eps"], mode, sigmas=sigmas)
    found = [line for line in result.warnings if "sigmas begin" in line]
    assert len(found) == low
    assert all("pure noise has no image" in line for line in found)
    assert all(("img2img" in line) == (mode == "txt2img") for line in found)


def test_noise_that_was_given_is_not_warned_of(models):
    """An inversion ends at any level, and its noise begins there."""
    noise = np.ones((1, *models["eps"].latent_shape(16, 16)), np.float32)
    result, _ = run(models["eps"], "txt2img", sigmas=[0.5, 0.0], latents=noise)
    assert not [line for line in result.warnings if "sigmas begin" in line]


def test_fill_acts_where_the_run_begins_with_the_image(models):
    sigmas = {"sigmas": [0.5, 0.0], "strength": 1.0}
    images = [run(models["eps"], "inpaint", fill=fill, **sigmas) for fill in ("original", "noise")]
    assert np.abs(images[0][0].latents - images[1][0].latents).max() > 0.01
    assert not [line for line in images[1][0].warnings if "changes nothing" in line]


# -- strength -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", FROM_IMAGE)
@pytest.mark.parametrize("strength", [0.01, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_map_takes_all_steps_from_the_strength_on(models, mode, strength, steps):
    model = models["map"]
    result, begin = run(model, mode, strength=strength, steps=steps)
    whole = run(model, "txt2img", steps=steps)[1]
    assert len(begin.timesteps) == steps and begin.levels[-1] == whole.levels[-1]
    np.testing.assert_allclose(begin.timesteps, strength * whole.timesteps, rtol=1e-12)
    levels = [begin.schedule.timestep(float(sigma)) for sigma in begin.levels[:-1]]
    np.testing.assert_allclose(levels, begin.timesteps, rtol=1e-9, atol=1e-9)
    assert result.params["steps"] == steps and result.params["strength"] == strength
    assert not [line for line in result.warnings if "strength" in line]


def test_every_strength_of_a_map_is_another_image(models):
    strengths = (0.2, 0.5, 0.75, 0.9, 0.99, 1.0)
    for mode in FROM_IMAGE:
        latents = [run(models["map"], mode, strength=s, steps=2)[0].latents for s in strengths]
        assert all(np.abs(a - b).max() > 1e-4 for a, b in pairwise(latents))


def test_a_map_at_strength_0_returns_the_image(models):
    result, _ = run(models["map"], "img2img", strength=0.0)
    assert result[0].tobytes() == IMAGE.tobytes()


def test_given_levels_of_a_map_are_taken_as_they_are(models):
    _, begin = run(models["map"], "img2img", strength=0.5, sigmas=[8.0, 2.0, 0.0])
    assert begin.levels.tolist() == [2.0, 0.0]


@pytest.mark.parametrize(
    ("steps", "strength", "told"),
    [(2, 0.75, "1, as strength 0.5"), (3, 0.75, "2, as strength 0.667"), (2, 0.9, "1,"),
     (4, 0.75, ""), (10, 0.75, ""), (20, 0.74, ""), (20, 0.75, ""), (50, 0.58, ""), (2, 1.0, "")],
)  # fmt: skip
@pytest.mark.parametrize("mode", FROM_IMAGE)
def test_a_strength_that_is_rounded_far_is_told(models, mode, steps, strength, told):
    result, begin = run(models["eps"], mode, steps=steps, strength=strength)
    found = [line for line in result.warnings if "is rounded to" in line]
    assert len(found) == bool(told) and all(told in line for line in found)
    assert len(begin.timesteps) == int(steps * strength)


def test_a_second_pass_of_a_map_begins_at_its_strength(models):
    plan = modes.plan(
        "txt2img", models["map"], prompt="a", steps=2, upscale=2, upscale_strength=0.3, seed=1
    )
    first, second = plan.passes
    config = models["map"].config
    times = second.make_schedule(config).timesteps
    np.testing.assert_allclose(times, 0.3 * first.make_schedule(config).timesteps, rtol=1e-12)
    assert plan.steps == 4 and plan.params["upscale_strength"] == 0.3


def test_levels_of_the_model_itself_are_untouched(models):
    """At strength 0.75 a default run of an ordinary model skips whole steps, as before."""
    model = models["eps"]
    _, begin = run(model, "img2img", steps=20)
    job = modes.plan("txt2img", model, prompt="a", steps=20).job
    whole = make_schedule(model.config.scheduler, job.sampler, job.schedule, 20)
    assert begin.levels.tolist() == whole.sigmas[5:].tolist()
