"""The second pass of txt2img: a composition of public parts gives the same image."""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.server.forms import unused_parameters
from ldmref.errors import UsageError
from ldmref.explore import make_grid, plan_grid, record_run
from ldmref.io.images.metadata import encode_png, read_parameters
from ldmref.modes.record import replay, upgrade_record
from ldmref.modes.upscale import enlarge_latents
from ldmref.samplers import SAMPLERS, make_schedule, sample
from ldmref.trace import record_trace

torch = pytest.importorskip("torch")
ASKED = {"prompt": "a red cat", "seed": 3, "steps": 4, "cfg_scale": 3.0, "sampler": "euler"}
SIDES = st.integers(1, 12)


@pytest.fixture(scope="module")
def torch64():
    return ldmref.random_model("tiny", backend="torch", dtype="float64")


def interpolate(latents, height, width):
    """Return latents enlarged as A1111 enlarges them."""
    return torch.nn.functional.interpolate(
        torch.from_numpy(latents), size=(height, width), mode="bilinear", antialias=False
    ).numpy()


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 100))
def test_latents_are_enlarged_as_pytorch_does(h, w, height, width, seed):
    latents = np.random.default_rng(seed).standard_normal((2, 3, h, w)).astype(np.float32)
    found = enlarge_latents(latents, height, width)
    assert found.dtype == np.float32
    exact = interpolate(latents.astype(np.float64), height, width)
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-7)
    # In float32, PyTorch rounds the places as well.
    np.testing.assert_allclose(found, interpolate(latents, height, width), rtol=0, atol=1e-5)


@given(SIDES, SIDES, st.integers(0, 100))
def test_an_image_of_one_colour_and_an_unchanged_size_stay(h, w, seed):
    latents = np.random.default_rng(seed).standard_normal((1, 2, h, w)).astype(np.float32)
    assert np.array_equal(enlarge_latents(latents, h, w), latents)
    flat = np.full((1, 1, h, w), 0.3, np.float32)
    np.testing.assert_allclose(enlarge_latents(flat, 3 * h, 2 * w), 0.3, rtol=1e-6)


@pytest.mark.parametrize(("strength", "taken"), [(0.7, 4), (0.5, 3), (1.0, 4), (0.31, 2)])
def test_a_latent_pass_is_sampling_from_the_enlarged_latents(torch64, strength, taken):
    """The second pass of A1111, made of the denoiser, the loop and a schedule."""
    model = torch64
    first = modes.txt2img(model, **ASKED, rng="torch")
    large = interpolate(first.latents, 16, 16)
    generator = torch.Generator("cpu").manual_seed(ASKED["seed"])
    noise = torch.randn((1, 4, 16, 16), generator=generator).numpy()
    n = int(taken / min(strength, 0.999))  # as A1111 says it
    euler = SAMPLERS["euler"]
    schedule = make_schedule(model.config.scheduler, euler, first.params["schedule"], n)
    sigmas = schedule.sigmas[n - taken :]
    assert len(sigmas) == taken + 1
    denoise = ldmref.denoiser(model, ASKED["prompt"], cfg_scale=3.0)
    x = large.astype(np.float64) + sigmas[0] * noise.astype(np.float64)
    *_, last = sample(denoise, model.backend.asarray(x), sigmas.tolist(), euler.make())
    found = modes.txt2img(
        model, **ASKED, rng="torch", upscale=2, upscale_strength=strength, upscale_steps=taken
    )
    scale = math.hypot(1.0, sigmas[-1])
    assert found.latents.shape == (1, 4, 16, 16)
    expected = model.backend.to_numpy(last.x) / scale
    np.testing.assert_allclose(found.latents, expected, rtol=0, atol=2e-5)
    again = modes.txt2img(
        model, **ASKED, rng="torch", upscale=2, upscale_sigmas=[float(s) for s in sigmas]
    )
    np.testing.assert_allclose(again.latents, found.latents, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("factor", "side"), [(2, 32), (1.5, 24), (1.3, 20), (1, 16)])
def test_an_image_pass_is_img2img_of_the_enlarged_image(tiny, factor, side):
    first = modes.txt2img(tiny, **ASKED)
    large = first[0].resize((side, side), Image.Resampling.LANCZOS)
    asked = ASKED | {"steps": 8}  # int(4 / 0.5), of which the last 4 are taken
    expected = modes.img2img(tiny, image=large, strength=0.5, **asked)
    found = modes.txt2img(tiny, **ASKED, upscale=factor, upscale_strength=0.5, upscaler="lanczos")
    assert found[0].size == (side, side)
    assert np.array_equal(np.asarray(found[0]), np.asarray(expected[0]))
    assert np.array_equal(found.latents, expected.latents)


def test_strength_0_only_enlarges(tiny):
    first = modes.txt2img(tiny, **ASKED)
    found = modes.txt2img(tiny, **ASKED, upscale=2, upscale_strength=0.0)
    assert np.array_equal(found.latents, enlarge_latents(first.latents, 16, 16))
    assert found.params["upscale_strength"] == 0.0


@pytest.mark.parametrize("upscaler", ["latent", "lanczos"])
def test_an_image_does_not_depend_on_its_neighbours(tiny, upscaler):
    asked = ASKED | {"upscale": 2, "upscaler": upscaler, "sampler": "euler_a"}
    several = modes.txt2img(tiny, **asked, count=3, batch_size=2)
    alone = modes.txt2img(tiny, **asked | {"seed": 5})
    assert several.seeds == [3, 4, 5]
    np.testing.assert_allclose(several.latents[2], alone.latents[0], rtol=0, atol=1e-5)


def test_sdxl_is_told_the_larger_size(two_encoders):
    found = modes.txt2img(two_encoders, **ASKED, upscale=2, upscale_steps=2)
    assert found[0].size == (32, 32)


def test_the_steps_of_both_passes_are_counted(tiny):
    seen = []
    modes.txt2img(
        tiny,
        **ASKED,
        count=2,
        upscale=2,
        upscale_steps=2,
        callback=lambda p: seen.append((p.first, p.step, p.steps, p.x0.shape[-1])),
    )
    one = [(k, 6, 8 if k < 4 else 16) for k in range(6)]
    assert seen == [(i, *step) for i in range(2) for step in one]
    plan = modes.plan("txt2img", tiny, **ASKED, upscale=2, upscale_steps=2)
    assert plan.steps == 6
    cost = plan.estimate(tiny)
    assert cost.evaluations == 12  # two predictions for each of six steps
    assert cost.memory > modes.plan("txt2img", tiny, **ASKED).estimate(tiny).memory


def test_an_image_records_both_passes_and_is_repeated(tiny):
    made = modes.txt2img(tiny, **ASKED, upscale=2)
    params = made.params_of(0)
    expected = {"upscale": 2, "upscale_strength": 0.7, "upscale_steps": 4, "upscaler": "latent"}
    assert {name: params[name] for name in expected} == expected
    assert (params["width"], params["height"]) == (16, 16)  # of the first pass, as A1111 says it
    record = read_parameters(io.BytesIO(encode_png(made[0], params)))["ldmref"]
    again = modes.plan("txt2img", tiny, **replay(upgrade_record(record), {})).run(tiny)
    assert np.array_equal(np.asarray(again[0]), np.asarray(made[0]))
    line = made.infotext().split("\n")[-1]
    parts = ("Denoising strength: 0.7", "Hires upscale: 2", "Hires steps: 4")
    assert all(part in line for part in (*parts, "Hires upscaler: Latent", "Size: 16x16"))
    plain = modes.txt2img(tiny, **ASKED).params
    assert not [name for name in plain if name.startswith("upscale")]


def test_given_levels_of_the_first_pass_leave_the_second_its_own(tiny):
    asked = {**ASKED, "steps": None, "sigmas": [8.0, 2.0, 0.5, 0.0], "upscale": 2}
    plan = modes.plan("txt2img", tiny, **asked)
    _, second = plan.passes
    assert (second.steps, second.first_step, second.sigmas) == (4, 1, None)
    assert plan.run(tiny)[0].size == (32, 32)


ONE_SIZE = "generates images of 16 x 16 only"


@pytest.mark.parametrize(
    ("asked", "words", "parameter"),
    [
        ({"upscale": 0.5}, "from 1 to 4", "upscale"),
        ({"upscale": 2, "upscale_strength": 1.1}, "from 0 to 1", "upscale_strength"),
        ({"upscale_steps": 3}, "does not have", "upscale"),
        ({"upscaler": "latent"}, "does not have", "upscale"),
        ({"upscale": 2, "upscaler": "esrgan"}, "lanczos, latent", "upscaler"),
        ({"upscale": 2, "upscale_strength": 0.001}, "strength 0.001", "upscale_steps"),
        ({"upscale": 2, "upscale_sigmas": [1, 0], "upscale_steps": 1}, "exclude", "upscale"),
        ({"upscale": 2, "upscale_sigmas": [900, 0]}, "second pass", "upscale_sigmas"),
    ],
)
def test_what_is_refused(tiny, asked, words, parameter):
    with pytest.raises(UsageError) as refused:
        modes.plan("txt2img", tiny, **ASKED, **asked)
    assert words in f"{refused.value} {refused.value.hint}"
    assert refused.value.parameter == parameter
    assert refused.value.code.startswith("E-UPSCALE")


def test_a_model_of_one_size_refuses_it_before_weights_are_read(tiny):
    defaults = dataclasses.replace(tiny.config.defaults, one_size=True)
    config = dataclasses.replace(tiny.config, defaults=defaults)
    with pytest.raises(UsageError, match=ONE_SIZE):
        modes.plan("txt2img", config, **ASKED, upscale=2)
    names = unused_parameters(config)
    assert {"upscale", "upscale_steps", "upscaler"} <= {*names}


def test_tools_that_look_at_one_pass_say_so(tiny, tmp_path):
    asked = ASKED | {"upscale": 2}
    with pytest.raises(UsageError, match="a recorded run has one pass"):
        record_run(tiny, **asked)
    with pytest.raises(UsageError, match="a recorded run has one pass"):
        record_trace(modes.plan("txt2img", tiny, **asked), tiny, tmp_path / "trace")
    assert not (tmp_path / "trace").exists()
    with pytest.raises(UsageError, match="one run of one pass") as refused, ldmref.recording(tiny):
        modes.txt2img(tiny, **asked)
    assert "leave upscale out" in refused.value.hint
    del asked["steps"]
    with pytest.raises(UsageError, match="no distance"):
        plan_grid(tiny, ("steps", [2, 3]), **asked)
    grid = make_grid(tiny, ("steps", [2, 3]), distance=False, **asked)
    assert [cell.image.size for row in grid.cells for cell in row] == [(32, 32)] * 2
