"""The ends of every range and values next to them, by the docstrings and the schema."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
from PIL import Image
from rounding import same_latents

import ldmref
from ldmref import modes
from ldmref.declare import Range, describe
from ldmref.errors import LdmrefError
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.params import init
from ldmref.models.presets import preset
from ldmref.modes.active_control import load_control
from ldmref.modes.control import Control
from ldmref.modes.registry import MODES
from ldmref.samplers.schedule import sampling_sigmas

TINY = preset("tiny")
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
WHITE = Image.new("L", (16, 16), 255)
REQUIRED = {
    "txt2img": {"prompt": "a"},
    "img2img": {"prompt": "a", "image": IMAGE},
    "inpaint": {"prompt": "a", "image": IMAGE, "mask": WHITE},
    "interpolate": {"prompt": "a", "prompt_b": "b"},
    "invert": {"prompt": "a", "image": IMAGE},
}
ELSEWHERE = ("width", "height", "tile", "clip_skip")  # the model decides, too: below
WITH = {
    "eta": {"sampler": "ddim"},
    "strength": {"steps": 4},
    "padding": {"only_masked": True},
    "upscale_strength": {"upscale": 2},
    "upscale_steps": {"upscale": 2, "upscale_strength": 1.0},
}


def code_of(mode, **values):
    """Return the code with which a plan is refused; "" if it is made."""
    try:
        modes.plan(mode, TINY, **REQUIRED[mode] | values)
    except LdmrefError as error:
        return error.code
    return ""


@pytest.mark.parametrize("mode", REQUIRED)
def test_both_ends_of_a_range_are_allowed(mode):
    for name, parameter in MODES[mode].parameters.items():
        limits = parameter.get(Range)
        if limits is None or name in ELSEWHERE:
            continue
        for value in (parameter.kind(limits.low), parameter.kind(limits.high)):
            if name == "eta" and mode == "interpolate" and value:
                continue  # its sampler adds no noise
            asked = {name: value} | WITH.get(name, {})
            if name == "max_sequence_length":
                continue  # of T5, which this model has not: tests/families/test_sd3_family.py
            if name.startswith("longest_"):
                continue  # of another family: tests/families/test_qwen_image_21_family.py
            if name == "steps" and mode == "img2img":
                asked |= {"strength": 1.0}  # a part of one step is none
            assert code_of(mode, **asked) == "", (name, value)


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"width": 8192, "height": 8192}, "E-SIZE-LIMIT"),  # a size, but too many pixels
        ({"width": 8193}, "E-WIDTH"),
        ({"width": 8194}, "E-WIDTH"),
        ({"height": 8194}, "E-HEIGHT"),
        ({"height": 0}, "E-HEIGHT"),
        ({"width": 1}, "E-SIZE"),  # no multiple of the model's
        ({"width": 3}, "E-SIZE"),
        ({"width": 2, "height": 2}, ""),
        ({"tile": 8}, ""),
        ({"tile": 7}, "E-TILE"),
        ({"tile": 9}, "E-TILE"),
        ({"tile": 8192}, ""),
        ({"clip_skip": 1}, ""),
        ({"clip_skip": 2}, "E-CLIP-SKIP"),
        ({"steps": 1000}, ""),
        ({"seed": 2**64 - 1}, ""),
        ({"seed": 2**64}, "E-SEED"),
        ({"seed": [0, 2**64]}, "E-SEED"),
        ({"seed": -2}, "E-SEED"),
        ({"seed": 1.0}, "E-SEED"),
        ({"seed": True}, "E-SEED"),
        ({"prompt": "a\ud800"}, "E-PROMPT"),  # half of a surrogate pair among letters
        ({"prompt": "\udfff"}, "E-PROMPT"),
        ({"prompt": "\ue000\ud7ff"}, ""),
        ({"prompt": ["a", 1]}, "E-PROMPT"),
        ({"prompt": []}, "E-PROMPT"),
        ({"prompt": b"a"}, "E-PROMPT"),
        ({"negative_prompt": ["a", "b"]}, "E-PROMPT"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c", "d"]}, ""),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, ""),
        ({"prompt": ["a", "b"], "seed": [1]}, "E-SEED"),
        ({"sampler": "ddim", "eta": 0.0}, ""),
        ({"sampler": "dpmpp_2m", "eta": 0.0}, "E-ETA"),
        ({"sampler": "euler", "schedule": "zigzag"}, "E-SCHEDULE"),
        ({"sampler": 1}, "E-SAMPLER"),
    ],
)
def test_the_ends_that_the_model_decides(values, code):
    assert code_of("txt2img", **values) == code


@pytest.mark.parametrize(
    ("mode", "values", "code"),
    [
        ("interpolate", {"positions": [0.5]}, ""),
        ("interpolate", {"positions": [0.0, 1.0]}, ""),
        ("interpolate", {"positions": (0.5, 0.25)}, ""),
        ("interpolate", {"positions": np.array([0.5])}, ""),
        ("interpolate", {"positions": 2}, ""),
        ("interpolate", {"positions": 1}, "E-POSITIONS"),
        ("interpolate", {"positions": [1.01]}, "E-POSITIONS"),
        ("inpaint", {"steps": 4, "resample": (1, 2)}, ""),
        ("inpaint", {"steps": 4, "resample": (4, 100)}, ""),
        ("inpaint", {"steps": 4, "resample": (1, 1)}, ""),
        ("inpaint", {"steps": 4, "resample": (1, 101)}, "E-RESAMPLE-TIMES"),
        ("img2img", {"steps": 4, "strength": 0.25}, ""),
        ("img2img", {"steps": 4, "strength": 0.24}, "E-STRENGTH"),  # less than a step
        ("img2img", {"steps": 4, "strength": 0.0}, ""),
    ],
)
def test_the_ends_of_lists_and_pairs(mode, values, code):
    assert code_of(mode, **values) == code


def without_null(property):
    """Return a property's schema, without the alternative of null."""
    first, *null = property.get("anyOf", [{}])
    assert null in ([], [{"type": "null"}])
    return property | first


@pytest.mark.parametrize("mode", MODES)
def test_the_schema_says_what_the_documentation_says(mode):
    schema = json.loads(json.dumps(modes.schema(mode)))
    assert schema["additionalProperties"] is False and schema["type"] == "object"
    text = " ".join(inspect.getdoc(getattr(modes, mode)).split())
    for name, parameter in MODES[mode].parameters.items():
        description = describe(parameter)
        property = without_null(schema["properties"][name])
        listed = f"One of {', '.join(parameter.choices)}." if parameter.choices else "One of "
        assert (listed in description) == bool(parameter.choices), name
        assert property.get("enum", []) == list(parameter.choices), name
        limits = parameter.get(Range)
        stated = f"From {limits.low} to {limits.high}." if limits else "From "
        assert (stated in description) == (limits is not None), name
        assert property.get("minimum") == (limits.low if limits else None), name
        default = None if parameter.required else parameter.default
        assert property.get("default") == default or default == (), name
        assert f"{name}: {' '.join(description.split())}" in text, name
    types = {name: without_null(p).get("type") for name, p in schema["properties"].items()}
    if "negative_prompt" in types:
        assert types["negative_prompt"] == ["string", "array"] and types["cfg_scale"] == "number"
        assert types["steps"] == "integer"


def test_classes_of_a_map():
    config = preset("ldm-semantic")
    labels = np.zeros((config.defaults.height, config.defaults.width), np.int64)
    for value, code in (
        (0, ""),
        (config.segmentation_classes - 1, ""),
        (config.segmentation_classes, "E-CLASS"),
        (-1, "E-CLASS"),
    ):
        labels[3, 5] = value
        try:
            modes.plan("seg2img", config, segmentation=labels)
            got = ""
        except LdmrefError as error:
            got = error.code
        assert got == code, value


# -- promises -------------------------------------------------------------------------------------


def test_strength_zero_gives_the_image_back_bit_for_bit(tiny):
    for r in (
        modes.inpaint(tiny, "a cat", IMAGE, WHITE, 0.0, seed=1, steps=2),
        modes.img2img(tiny, "a cat", IMAGE, 0.0, seed=1, steps=2),
    ):
        assert (np.asarray(r[0]) == np.asarray(IMAGE)).all()


def test_an_image_of_a_run_is_recorded_as_one(tiny):
    r = modes.txt2img(tiny, ["a", "b"], negative_prompt=["c", "d"], count=2, seed=5, steps=1)
    single = r.params_of(3)
    assert (single["prompt"], single["negative_prompt"]) == ("b", "d")
    assert (single["seed"], single["count"], single["index"]) == (8, 1, 3)


def test_images_side_by_side_in_a_notebook(tiny):
    import io

    r = modes.txt2img(tiny, "a", count=3, seed=5, steps=1)
    sheet = np.asarray(Image.open(io.BytesIO(r._repr_png_())))
    assert (sheet == np.concatenate([np.asarray(image) for image in r], axis=1)).all()


def test_a_control_reads_its_image_from_zero_to_one(tiny):
    config = ControlNetConfig(tiny.config.unet, conditioning_embedding_out_channels=(4, 8))
    net = ControlNet(tiny.backend, config, init(controlnet_spec(config), 3), "edges", "")
    active = load_control(tiny, Control(net, IMAGE), IMAGE.size)
    pixels = np.asarray(IMAGE, np.float32).transpose(2, 0, 1)[None] / 255.0
    want = net.encode_hint(tiny.backend.asarray(pixels))
    np.testing.assert_allclose(active.hint, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cfg_scale", [1.0, 3.0])
def test_the_denoiser_of_several_images_is_that_of_each(tiny64, cfg_scale):
    denoise = ldmref.denoiser(tiny64, "a cat", "a hat", cfg_scale)
    other = ldmref.denoiser(tiny64, "a cat", "", cfg_scale)
    sigma = float(sampling_sigmas(tiny64.config.scheduler)[600])
    x = sigma * np.random.default_rng(0).standard_normal((3, 4, 8, 8))
    together = denoise(x, sigma)
    for i in range(3):
        same_latents(together[i : i + 1], denoise(x[i : i + 1], sigma), x)
    differs = np.abs(together - other(x, sigma)).max()
    assert (differs > 1e-4) == (cfg_scale != 1.0)  # the negative prompt acts through guidance


def test_super_resolution_draws_as_many_latents_as_the_image_has_pixels():
    config = preset("ldm-superres")
    r = modes.plan("superres", config, image=Image.new("RGB", (64, 32))).job
    assert (r.width, r.height) == (64 * config.vae.factor, 32 * config.vae.factor)


@pytest.mark.parametrize(
    ("model", "prompt", "allowed"),
    [
        ("ldm-unconditional", "", True),
        ("ldm-unconditional", "a cat", False),
        ("ldm-imagenet", "0", True),
        ("ldm-imagenet", "999", True),
        ("ldm-imagenet", "1001", False),
        ("ldm-imagenet", "a cat", False),
    ],
)
def test_prompts_that_a_model_cannot_follow_are_refused_before_its_weights_are_read(
    model, prompt, allowed
):
    try:
        modes.plan("txt2img", preset(model), prompt=prompt)
        assert allowed
    except LdmrefError as error:
        assert not allowed and error.code.startswith("E-")
