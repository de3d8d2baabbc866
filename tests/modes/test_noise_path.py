"""Runs on the path of flow matching: models of both kinds, in all modes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from unfollowed import of_another_program

import ldmref
from ldmref import explore, modes
from ldmref.backends import get_backend
from ldmref.errors import UsageError
from ldmref.locate import diff_traces
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.models.presets import preset
from ldmref.modes.record import replay, upgrade_record
from ldmref.samplers import FLOW
from ldmref.trace import Selection, read_trace, record_trace

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
HALF = Image.fromarray(np.repeat([[0, 255]], 16, 0).repeat(8, 1).astype(np.uint8))


@pytest.fixture(scope="module")
def model():
    return ldmref.random_model("tiny", dtype="float64")


@pytest.fixture(scope="module")
def flow_model():
    """Random weights, read as those of a velocity."""
    config = preset("tiny")
    scheduler = replace(
        config.scheduler,
        prediction_type="flow",
        sampler="euler",
        spacing="flow",
        final_sigma="zero",
        shift=3.0,
    )
    config = replace(config, scheduler=scheduler)
    tokenizer = ldmref.random_model("tiny").tokenizer
    ops = get_backend("numpy", dtype="float64")
    return LatentDiffusion(ops, config, init(model_spec(config)), tokenizer)


def both(mode, model, sampler, *arguments, **more):
    run = getattr(modes, mode)
    more = {"seed": 3, "steps": 6, "sampler": sampler, **more}
    return [run(model, "a red cat", *arguments, **more, noise_path=path) for path in (None, "flow")]


@pytest.mark.parametrize(
    "sampler", ["ddim", "euler", "euler_a", "dpmpp_2m", "unipc", "ddpm", "lcm"]
)
def test_methods_of_first_order_or_in_log_snr_give_the_same_image(model, sampler):
    scaled, on_flow = both("txt2img", model, sampler)
    np.testing.assert_allclose(on_flow.latents, scaled.latents, atol=1e-5)
    assert "noise_path" not in scaled.params and on_flow.params["noise_path"] == "flow"


def test_heun_differs_and_converges_to_the_same_image(model):
    far, near = (
        np.abs(np.subtract(*(r.latents for r in both("txt2img", model, "heun", steps=n)))).max()
        for n in (6, 24)
    )
    assert 1e-4 < near < far / 4


def test_img2img_starts_from_the_same_distribution(model):
    scaled, on_flow = both("img2img", model, "dpmpp_2m", PHOTO, strength=0.5)
    np.testing.assert_allclose(on_flow.latents, scaled.latents, atol=1e-5)


@pytest.mark.parametrize("more", [{}, {"resample": (2, 2)}, {"strength": 0.6}])
def test_inpainting_keeps_what_is_known(model, more):
    scaled, on_flow = both("inpaint", model, "ddim", PHOTO, HALF, **more)
    np.testing.assert_allclose(on_flow.latents, scaled.latents, atol=1e-5)
    kept = np.asarray(on_flow[0])[:, :8]
    assert np.array_equal(kept, np.asarray(PHOTO)[:, :8])


def test_inversion_finds_the_same_noise(model):
    found = [
        modes.invert(model, "a red cat", PHOTO, steps=5, iterations=0, noise_path=path).latents
        for path in (None, "flow")
    ]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_an_image_on_the_path_is_replayed(model):
    _, first = both("txt2img", model, "heun")
    changes = replay(upgrade_record(first.params), {})
    again = modes.plan("txt2img", model, **changes).run(model)
    np.testing.assert_array_equal(again.latents, first.latents)


def test_levels_are_flow_times_there(model):
    levels = [0.6, 0.3, 0.1, 0.0]
    result = modes.txt2img(model, "a", seed=1, sigmas=levels, noise_path="flow", sampler="ddim")
    ratios = [FLOW.ratio(s) for s in levels]
    scaled = modes.txt2img(model, "a", seed=1, sigmas=ratios, sampler="ddim")
    np.testing.assert_allclose(result.latents, scaled.latents, atol=1e-5)
    with pytest.raises(UsageError, match=r"the model knows noise up to 0\.93"):
        modes.plan("txt2img", model, prompt="a", sigmas=[0.99, 0.0], noise_path="flow")


def test_a_trace_on_the_path_has_no_fault_and_a_wrong_one_is_found(model, tmp_path):
    plan = modes.plan(
        "txt2img", model, prompt="a cat", seed=1, steps=3, sampler="heun", noise_path="flow"
    )
    record_trace(plan, model, tmp_path / "t", selection=Selection(layers=("",)))
    trace = read_trace(tmp_path / "t")
    report = diff_traces(trace, model)
    assert not report.faults and report.equal
    entries = [
        replace(entry, attributes={k: v for k, v in entry.attributes.items() if k != "path"})
        for entry in trace.entries
    ]
    wrong = replace(trace, entries=tuple(entries))  # read as x0 + sigma eps
    assert diff_traces(wrong, model).equal  # the request of the run says which path it is
    params = {k: x for k, x in trace.manifest["params"].items() if k != "noise_path"}
    unknown = replace(wrong, manifest={**trace.manifest, "params": params})
    assert diff_traces(of_another_program(unknown), model).faults


def test_the_truth_line_does_not_depend_on_the_path(model):
    distances = []
    for path in (None, "flow"):
        record = explore.record_run(
            model, prompt="a cat", seed=1, steps=3, sampler="ddim", noise_path=path
        )
        truth = explore.truth_line(model, record, tolerance=0.1)
        distances.append(truth.distance)
        assert record.path.name == (path or "ve")
    np.testing.assert_allclose(*distances, rtol=1e-3, atol=1e-5)


# -- models trained with flow matching ------------------------------------------------------------


def test_euler_follows_the_velocity_of_the_network(flow_model):
    """Written out: x' = x + (s' - s) (u + c (v - u)), with t = 1000 s."""
    noise = np.random.default_rng(5).standard_normal((1, 4, 8, 8)).astype(np.float32)
    result = modes.txt2img(flow_model, "a cat", steps=4, latents=noise, cfg_scale=3.0)
    levels = [1.0, 0.9, 0.75, 0.5, 0.0]
    assert result.params["schedule"] == "flow" and result.params["sampler"] == "euler"
    encode = flow_model.encode_text
    empty, prompt = encode([""]), encode(["a cat"])
    x = noise.astype(np.float64)
    for s, after in pairwise(levels):
        t = np.asarray([1000.0 * s])
        u, v = (flow_model.unet(x, t, states) for states in (empty, prompt))
        x = x + (after - s) * (u + 3.0 * (v - u))
    np.testing.assert_allclose(result.latents, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "dpmpp_2m_sde", "euler_a", "unipc", "lms"])
def test_every_kind_of_sampler_begins_at_pure_noise(flow_model, sampler):
    result = modes.txt2img(flow_model, "a cat", steps=6, seed=1, sampler=sampler)
    assert np.isfinite(result.latents).all() and result.params["schedule"] == "flow"


def test_other_modes_of_a_flow_model(flow_model):
    inpainted = modes.inpaint(flow_model, "a cat", PHOTO, HALF, steps=4, seed=1)
    assert np.array_equal(np.asarray(inpainted[0])[:, :8], np.asarray(PHOTO)[:, :8])
    changed = modes.img2img(flow_model, "a cat", PHOTO, strength=0.5, steps=4, seed=1)
    assert np.isfinite(changed.latents).all()
    noise = modes.invert(flow_model, "a cat", PHOTO, steps=4, iterations=3)
    back = modes.txt2img(flow_model, "a cat", steps=4, latents=noise.latents, cfg_scale=1.0)
    assert np.isfinite(back.latents).all()


def test_other_spacings_and_the_other_path_are_refused(flow_model, model):
    with pytest.raises(UsageError, match="this one is of flow matching"):
        modes.plan("txt2img", flow_model, prompt="a", schedule="karras")
    with pytest.raises(UsageError, match="begins at noise without data"):
        modes.plan("txt2img", flow_model, prompt="a", noise_path="ve")
    with pytest.raises(UsageError, match="for models trained with flow matching"):
        modes.plan("txt2img", model, prompt="a", schedule="flow")


def test_the_denoiser_of_a_flow_model_is_on_its_path(flow_model):
    denoise = ldmref.denoiser(flow_model, "a cat", cfg_scale=1.0)
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8))
    velocity = flow_model.unet(x, np.asarray([250.0]), flow_model.encode_text(["a cat"]))
    np.testing.assert_allclose(denoise(x, 0.25), x - 0.25 * velocity, rtol=1e-6, atol=1e-6)
    with pytest.raises(UsageError, match="sigma"):
        denoise(x, 14.6)


def test_a_trace_of_a_flow_model_has_no_fault(flow_model, tmp_path):
    plan = modes.plan("txt2img", flow_model, prompt="a cat", seed=1, steps=3)
    record_trace(plan, flow_model, tmp_path / "t", selection=Selection(layers=("",)))
    report = diff_traces(read_trace(tmp_path / "t"), flow_model)
    assert not report.faults and report.equal
