"""Estimates and limits of what a request takes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.advice import cost
from ldmref.errors import ResourceError, UsageError
from ldmref.support.free_memory import is_out_of_memory

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
SEEDED = {"seed": 1, "steps": 2}


@pytest.fixture
def model():
    return ldmref.random_model("tiny", backend="numpy")


def estimate(model, mode="txt2img", **values):
    return modes.plan(mode, model.config, prompt="a", **values).estimate(model)


def test_estimates_grow_with_what_is_asked(model, monkeypatch):
    monkeypatch.setattr(cost, "measure_flops_per_second", lambda backend: 1e6)
    once = estimate(model, steps=3)
    assert once.evaluations == 3 * 2 and once.seconds == once.flops / 1e6
    for scale in (0.0, 1.0):
        assert estimate(model, steps=3, cfg_scale=scale).evaluations == 3
    twice = estimate(model, steps=3, count=2)
    heun = estimate(model, steps=3, sampler="heun")
    assert (twice.evaluations, twice.flops) == (12, 2 * once.flops)
    assert heun.evaluations == 2 * once.evaluations and heun.flops < 2 * once.flops
    decoder = 2 * once.flops - heun.flops
    assert 0 < decoder < once.flops and twice.memory == once.memory
    assert estimate(model, batch_size=4, steps=3).memory == once.memory  # of one image
    assert estimate(model, batch_size=4, count=2).memory > once.memory
    inverted = estimate(model, "invert", image=IMAGE, steps=3, iterations=4)
    assert inverted.evaluations == 3 * 5
    assert estimate(model, "img2img", image=IMAGE, steps=4, strength=0.5).evaluations == 2 * 2
    assert estimate(model, "img2img", image=IMAGE, steps=4, strength=0.0).evaluations == 0


def test_memory_is_that_of_a_batch_and_its_tiles(model, monkeypatch):
    asked = []
    needs = SimpleNamespace(peak_resident=1, peak_streamed=lambda names: 1)
    monkeypatch.setattr(model, "estimate_memory", lambda *size: asked.append(size) or needs)
    for batch_size, count in ((4, 2), (2, 4)):
        estimate(model, width=20, height=24, tile=8, batch_size=batch_size, count=count)
    assert asked == [(20, 24, 2, 8, 0)] * 2  # and no references


def test_the_limit_itself_is_allowed(model, monkeypatch):
    monkeypatch.setattr(cost, "measure_flops_per_second", lambda backend: 1e6)
    plan = modes.plan("txt2img", model.config, prompt="a", steps=1)
    model.max_seconds = plan.estimate(model).seconds
    cost.check_limits(plan, model)
    model.max_seconds *= 0.999
    for limits in (model.max_seconds, None), (1e9, 10**6), (None, 10**6):
        model.max_seconds, model.max_memory = limits
        with pytest.raises(ResourceError) as caught:
            modes.txt2img(model, "a", steps=1)
        assert caught.value.code == ("E-MEMORY" if model.max_memory else "E-SECONDS")


def test_words_of_libraries_that_run_out_of_memory():
    other = type("OutOfMemoryError", (Exception,), {})
    for error, meant in [
        (MemoryError(), True),
        (other("x"), True),
        (RuntimeError("CUDA out of memory."), True),
        (RuntimeError("can't allocate memory"), True),
        (RuntimeError("shapes"), False),
        (ResourceError("out of memory", code="E-MEMORY"), False),
        (ValueError("memory"), False),
    ]:
        assert is_out_of_memory(error) is meant, error


def calls_of_the_unet(model, mode="txt2img", **arguments):
    images = []
    unet = model.predict
    model.predict = lambda latents, *rest, **more: (
        images.append(latents.shape[0]) or unet(latents, *rest, **more)
    )
    getattr(modes, mode)(model, "a", **arguments)
    return sum(images)


@pytest.mark.parametrize(
    ("mode", "arguments"),
    [
        ("txt2img", {"steps": 3}),
        ("txt2img", {"steps": 3, "count": 2, "cfg_scale": 1.0}),
        ("txt2img", {"steps": 3, "batch_size": 2, "count": 2}),
        ("txt2img", {"steps": 3, "sampler": "pndm"}),
        ("txt2img", {"steps": 5, "sampler": "lms"}),
        ("img2img", {"image": IMAGE, "strength": 0.5, "steps": 6, "sampler": "deis_3"}),
        (
            "inpaint",
            {
                "image": IMAGE,
                "mask": IMAGE,
                "steps": 6,
                "resample": (3, 2),
                "sampler": "deis_3",
            },
        ),
        ("img2img", {"image": IMAGE, "strength": 0.5, "steps": 4}),
        ("inpaint", {"image": IMAGE, "mask": IMAGE, "steps": 4, "resample": (2, 2)}),
        (
            "inpaint",
            {"image": IMAGE, "mask": IMAGE, "steps": 6, "resample": (2, 2), "strength": 0.5},
        ),
    ],
)
def test_evaluations_are_counted_exactly(mode, arguments):
    model = ldmref.random_model("tiny", backend="numpy")
    cost = modes.plan(mode, model.config, prompt="a", **arguments).estimate(model)
    assert cost.evaluations == calls_of_the_unet(model, mode, **arguments)
    assert cost.flops > 0 and cost.memory > 2**20 and 0.0 < cost.seconds < 60.0


def test_a_request_over_the_limit_is_refused_before_anything_is_drawn():
    model = ldmref.random_model("tiny", backend="numpy")
    model.max_seconds = 1e-9
    model.predict = model.encode_prompts = None
    with pytest.raises(ResourceError) as caught:
        modes.txt2img(model, "a", seed=1)
    assert caught.value.code == "E-SECONDS"
    with pytest.raises(ResourceError):
        modes.invert(model, "a", IMAGE)


def test_limits_come_from_argument_and_environment(monkeypatch):
    monkeypatch.setenv("LDMREF_MAX_SECONDS", "2.5")
    monkeypatch.setenv("LDMREF_MAX_MEMORY", "3GB")
    model = ldmref.load()
    assert (model.max_seconds, model.max_memory) == (2.5, 3 * 10**9)
    assert ldmref.load(max_seconds=7.0).max_seconds == 7.0
    for wrong in (0, -1.0, float("nan"), float("inf"), "x", True):
        with pytest.raises(UsageError) as caught:
            ldmref.load(max_seconds=wrong)
        assert caught.value.code == "E-MAX-SECONDS"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_out_of_memory_says_what_is_needed_and_the_model_draws_on(error):
    model = ldmref.random_model("tiny", backend="numpy")

    def fails(*arguments, **options):
        raise error

    want = modes.txt2img(model, "a", **SEEDED).latents
    unet = model.predict
    model.predict = fails
    with pytest.raises(ResourceError) as caught:
        modes.txt2img(model, "a", **SEEDED)
    size = model.estimate_memory(16, 16).peak_resident / 1e9
    assert caught.value.code == "E-MEMORY" and f"about {size:.1f} GB" in str(caught.value)
    model.predict = unet
    assert (modes.txt2img(model, "a", **SEEDED).latents == want).all()
    model.predict = lambda *a, **k: (_ for _ in ()).throw(RuntimeError("another"))
    with pytest.raises(RuntimeError, match="another"):
        modes.txt2img(model, "a", **SEEDED)
