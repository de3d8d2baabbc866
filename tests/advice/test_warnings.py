"""Warnings about what is seldom meant in a request."""

from __future__ import annotations

import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.advice.requests import advise
from ldmref.models.presets import preset

IMAGE = Image.new("RGB", (16, 16), "teal")
SEEDED = {"seed": 1, "steps": 2}


def warnings(model, mode="txt2img", **arguments):
    return " ".join(getattr(modes, mode)(model, "a", **arguments, **SEEDED).warnings)


def test_an_ordinary_request_has_no_warning(tiny):
    assert modes.txt2img(tiny, "red heart", **SEEDED).warnings == []


@pytest.mark.parametrize(("scale", "warned"), [(51.0, True), (-80.0, True), (50.0, False)])
def test_a_large_guidance_scale_is_warned_about(tiny, scale, warned):
    assert ("cfg_scale" in warnings(tiny, cfg_scale=scale)) is warned


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"cfg_scale": 0},
            "cfg_scale 0 draws the empty (negative) prompt; 1 means without guidance",
        ),
        (
            {"cfg_scale": 0, "negative_prompt": "b"},
            "cfg_scale 0 draws the negative prompt; 1 means",
        ),
        ({"cfg_scale": 0, "guidance": "rescale"}, "cfg_scale 0 draws the empty (negative) prompt"),
        ({"cfg_scale": 0, "guidance": "perp_neg"}, "cfg_scale 0 draws the empty (negative) prompt"),
        ({"cfg_scale": 0, "sampler": "euler_cfgpp"}, ""),  # whose usual scales are 0 to 1
        ({"cfg_scale": 1}, ""),
        ({"cfg_scale": 0.1}, ""),
        ({}, ""),
    ],
)
def test_a_guidance_scale_of_zero_is_said_to_leave_nothing_of_the_prompt(tiny, arguments, said):
    found = warnings(tiny, **arguments)
    assert said in found and ("draws" in found) is bool(said)


def test_a_network_that_reads_a_guidance_scale_of_zero_reads_the_prompt_too():
    model = ldmref.random_model("flux-tiny")
    assert "draws" not in warnings(model, cfg_scale=0, width=32, height=32)


def test_strength_zero_is_warned_about_and_gives_the_image_back(tiny):
    r = modes.img2img(tiny, "a", IMAGE, strength=0, **SEEDED)
    assert "strength 0" in " ".join(r.warnings) and r[0].tobytes() == IMAGE.tobytes()


def test_float16_on_numpy_is_warned_about():
    model = ldmref.random_model("tiny", backend="numpy", dtype="float16")
    assert "float16" in warnings(model)


@pytest.mark.parametrize("prompt", ["a (red:1.3) cat", "a (very (red): -0.5) cat (x:1)"])
def test_weights_that_are_text_are_mentioned(tiny, prompt):
    said = " ".join(modes.txt2img(tiny, prompt, **SEEDED).warnings)
    assert "prompt_weights" in said
    read = modes.txt2img(tiny, prompt, prompt_weights="a1111", **SEEDED).warnings
    assert "prompt_weights" not in " ".join(read)


def test_a_lora_in_a_prompt_is_mentioned(tiny):
    for options in ({}, {"prompt_weights": "a1111"}):
        said = modes.txt2img(tiny, ["a <lora:x:0.8>"] * 2, **options, **SEEDED).warnings
        assert sum("--lora" in line for line in said) == 1


def test_an_interpolation_between_equals_is_mentioned(tiny):
    def lines(prompt_b, seed):
        return modes.interpolate(tiny, "a", prompt_b, 2, seed=seed, steps=1).warnings

    assert "nothing to interpolate" in " ".join(lines("a", 1))
    assert "nothing to interpolate" in " ".join(lines("a", [1, 1]))
    assert not lines("a", [1, 2]) and "nothing" not in " ".join(lines("red", 1))


@pytest.mark.parametrize(
    ("name", "size", "far"),
    [
        ("emoji", (96, 64), True),
        ("emoji", (64, 40), True),
        ("emoji", (72, 64), False),
        ("sd15", (512, 768), False),
        ("sd15", (1088, 1024), True),
        ("sd15", (192, 512), True),
        ("sdxl", (1536, 640), False),
    ],
)
def test_sizes_far_from_the_trained_one_are_warned_about(tiny, name, size, far):
    config = preset(name)
    request = modes.plan("txt2img", config, prompt="a", width=size[0], height=size[1]).job
    assert bool(advise(config, request, tiny.backend)) is far


@pytest.mark.parametrize("method", ["flowedit", "rf_inversion"])
def test_the_published_scale_of_the_source_is_no_warning(method):
    """It was not asked for; another one is, and an empty source has nothing to guide to."""
    model = ldmref.random_model("sd3-tiny", backend="numpy")

    def said(**scale):
        text = warnings(model, "edit", image=IMAGE, method=method, **scale)
        return "the source prompt is empty" in text

    assert not said()
    assert said(source_cfg_scale=2.0)
