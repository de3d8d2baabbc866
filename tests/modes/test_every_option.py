"""Every declared parameter of every mode changes the image, or is named in a warning, or refused.

A parameter is in this table by being declared: one without a value here fails.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from PIL import Image
from small_models import save_map, save_wordless

import ldmref
from ldmref import modes
from ldmref.errors import LdmrefError, UsageError
from ldmref.io import open_checkpoint
from ldmref.modes.registry import MODES
from ldmref.samplers import SAMPLERS

RANDOM = np.random.default_rng(0)
LONG = "a (cat:1.6) [dog] " + "word " * 90  # cut, and with weights
STEPS = 4
EXEMPT = {
    "batch_size": "how many images are made together, which is memory and speed",
}


def picture(width=16, height=16):
    return Image.fromarray(RANDOM.integers(0, 255, (height, width, 3), dtype=np.uint8))


MASK = np.zeros((16, 16), bool)
MASK[4:12, 2:9] = True
SMALL_MASK = np.zeros((64, 64), bool)
SMALL_MASK[20:28, 20:28] = True
GIVEN = {
    "img2img": {"image": picture()},
    "inpaint": {"image": picture(), "mask": MASK},
    "interpolate": {"prompt_b": "dog", "positions": 3},
    "invert": {"image": picture(), "iterations": 2},
    "edit": {"image": picture()},
    "superres": {"image": picture()},
    "seg2img": {"segmentation": np.zeros((16, 16), int)},
}
LARGE = {"image": picture(64, 64), "mask": SMALL_MASK}
RF = {"method": "rf_inversion"}


def values(model):
    """Return the values to try for each parameter, each with what else is asked for."""
    vae, hidden = model.config.vae, model.config.text_encoder.hidden_size
    side = 16 // vae.factor
    noise = np.ones((1, vae.latent_channels, side, side), np.float32)
    states = RANDOM.standard_normal((1, 77, hidden)).astype(np.float32)
    pooled = RANDOM.standard_normal((1, hidden)).astype(np.float32)
    flow = model.config.scheduler.prediction_type == "flow"
    levels = [0.9, 0.5, 0.0] if flow else [5.0, 1.0, 0.0]
    lower = [0.5, 0.2, 0.0] if flow else [2.0, 1.0, 0.0]
    both = {"cfg_scale": 3.0}
    paths = [("flow", {}), ("flow", {"sampler": "heun"})]
    return {
        "prompt": [("another", {})],
        "prompt_b": [("another", {})],
        "source_prompt": [("another", {})],
        "negative_prompt": [("x", {}), ("x", both)],
        "cfg_scale": [(3.3, {})],
        "guidance": [("rescale", {}), ("rescale", both), ("nag", {})],
        "guide": [(model, {}), (model, {"guidance": "autoguidance", "cfg_scale": 2.0})],
        "steps": [(3, {})],
        "sampler": [("heun", {}), ("lcm", {})],
        "schedule": [("karras", {})],
        "seed": [(7, {})],
        "width": [(24, {}), (24, {"only_masked": True})],
        "height": [(24, {}), (24, {"only_masked": True})],
        "count": [(2, {})],
        "latents": [(noise, {})],
        "eta": [(0.5, {}), (0.5, {"sampler": "euler_a"})],
        "rng": [("torch", {})],
        "sigmas": [(levels, {"steps": None})],
        "noise_path": [("ve", {}), *([] if flow else paths)],
        "tile": [(64, {}), (8, {})],
        "clip_skip": [(1, {})],
        "max_sequence_length": [(12, {})],
        "longest_prompt": [(90, {})],
        "longest_negative_prompt": [(90, {})],
        "long_prompts": [("chunk", {})],
        "prompt_weights": [("a1111", {})],
        "strict_prompt": [(True, {})],
        "resize": [("fill", {}), ("fill", {"width": 24}), ("fill", {"image": picture(19, 16)})],
        "strength": [(0.5, {}), (0.9, {"steps": 2}), (0.0, {})],
        "mask_blur": [(3.0, {})],
        "fill": [("noise", {}), ("noise", {"strength": 0.5}), ("nothing", {"strength": 0.5})],
        "only_masked": [(True, {}), (True, LARGE)],
        "padding": [(4, {}), (4, LARGE | {"only_masked": True})],
        "resample": [((2, 2), {"steps": 2}), ((1, 2), {}), ((2, 1), {})],
        "mask_invert": [(True, {})],
        "upscale": [(2.0, {})],
        "upscale_strength": [(0.3, {}), (0.3, {"upscale": 2})],
        "upscale_steps": [(1, {}), (1, {"upscale": 2}), (1, {"upscale": 2, "upscale_strength": 0})],
        "upscale_sigmas": [(lower, {}), (lower, {"upscale": 2})],
        "upscaler": [("lanczos", {}), ("lanczos", {"upscale": 2})],
        "positions": [(4, {})],
        "path": [("slerp", {})],
        "iterations": [(1, {})],
        "image": [(picture(), {})],
        "mask": [(~MASK, {})],
        "segmentation": [(np.ones((16, 16), int), {})],
        "control_image": [(picture(), {})],
        "references": [([picture()], {})],
        "prompt_embeds": [(states, {})],
        "negative_prompt_embeds": [(states, {}), (states, both | {"prompt_embeds": -states})],
        "pooled_prompt_embeds": [(pooled, {}), (pooled, {"prompt_embeds": states})],
        "negative_pooled_prompt_embeds": [(pooled, {}), (pooled, {"prompt_embeds": states})],
        "prompt_mask": [(np.ones((1, 77), int), {"prompt_embeds": states})],
        "negative_prompt_mask": [(np.ones((1, 77), int), {"negative_prompt_embeds": states})],
        "control": [],  # tests/modes/test_control.py
        "method": [("rf_inversion", {})],
        "source_cfg_scale": [(2.0, {}), (2.0, {"source_prompt": "dog"})],
        "n_max": [(1, {}), (1, RF)],
        "n_min": [(1, {}), (1, RF)],
        "n_avg": [(2, {}), (2, RF)],
        "gamma": [(0.2, {}), (0.2, RF)],
        "keep": [(0.3, {}), (0.3, RF)],
        "keep_start": [(0.5, {}), (0.5, RF | {"keep_end": 1.0})],
        "keep_end": [(0.9, {}), (0.9, RF)],
    }


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """Return a small model of each kind by its name, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("models")

    def make(kind):
        if kind == "map":
            save_map(folder / kind, tiny)
        elif kind in ("low_resolution", "segmentation"):
            classes = {"segmentation_classes": 3} if kind == "segmentation" else {}
            save_wordless(folder / kind, kind, **classes)
        else:
            return tiny if kind == "tiny" else ldmref.random_model(kind, backend="numpy")
        return ldmref.load(folder / kind, backend="numpy")

    made = {}
    return lambda kind: made.setdefault(kind, None) or made.update({kind: make(kind)}) or made[kind]


def attempt(model, mode, parameters):
    """Return the result of a mode, or its refusal."""
    try:
        return getattr(modes, mode)(model, **parameters)
    except LdmrefError as error:
        return error


def is_same(a, b):
    """Return whether two results are the same but for rounding."""
    if a.latents.shape != b.latents.shape or np.abs(a.latents - b.latents).max() > 1e-4:
        return False
    pairs = zip(getattr(a, "images", ()), getattr(b, "images", ()), strict=True)
    return all(np.abs(np.int32(p) - np.int32(q)).max() <= 1 for p, q in pairs)


def request(mode):
    """Return what a request of a mode needs."""
    declared = MODES[mode].parameters
    steps = 2 if mode in ("interpolate", "invert") else STEPS
    base = {"prompt": LONG, "steps": steps, "seed": 1}
    return {name: value for name, value in base.items() if name in declared} | GIVEN.get(mode, {})


def tried(mode, model):
    """Yield each parameter of a mode with its value, and what else is asked for."""
    declared, known = MODES[mode].parameters, values(model)
    for name in declared.keys() - EXEMPT.keys():
        for value, more in known[name]:
            if more.keys() <= declared.keys():
                yield name, value, request(mode) | more


KINDS = {
    "tiny": ("txt2img", "img2img", "inpaint", "interpolate", "invert"),
    "map": ("txt2img", "img2img", "inpaint", "interpolate"),
    "sd3-tiny": ("txt2img", "img2img", "inpaint", "interpolate", "invert", "edit"),
    "flux-tiny": ("txt2img", "edit"),
    "low_resolution": ("superres",),
    "segmentation": ("seg2img",),
}


@pytest.mark.parametrize(
    ("kind", "mode"), [*chain(*([(kind, mode) for mode in KINDS[kind]] for kind in KINDS))]
)
def test_every_parameter_acts_or_is_named_or_is_refused(models, kind, mode):
    model = models(kind)
    plain: dict = {}
    silent = []
    for name, value, base in tried(mode, model):
        key = repr(sorted((k, id(v)) for k, v in base.items()))
        if key not in plain:
            plain[key] = base, attempt(model, mode, base)  # keeps what is identified
        without = plain[key][1]
        result = attempt(model, mode, base | {name: value})
        if isinstance(result, LdmrefError) or isinstance(without, LdmrefError):
            continue
        words = (name, name.replace("_", " "))
        named = any(word in line for line in result.warnings for word in words)
        if is_same(result, without) and not named:
            silent.append(f"{name}={value!r:.40}")
    assert not silent


def test_every_declared_parameter_is_tried(tiny):
    known = values(tiny).keys() | EXEMPT.keys()
    assert known == {name for mode in MODES.values() for name in mode.parameters}
    assert all(EXEMPT.values())


@pytest.mark.parametrize(
    "sampler", [n for n, x in SAMPLERS.items() if not x.own_guidance | x.adaptive]
)
def test_a_path_that_changes_nothing_is_said_to(tiny, sampler):
    """A path matters to methods of higher order along the slope, and to no other."""
    given = {"prompt": "a", "sampler": sampler, "steps": 4, "seed": 1}
    plain = modes.txt2img(tiny, **given)
    other = modes.txt2img(tiny, **given, noise_path="flow")
    told = any("noise_path=flow changes nothing" in line for line in other.warnings)
    assert told == is_same(plain, other)


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        ({"variant": "fp16"}, ["variant=fp16 changes nothing"]),
        ({"ema": False}, ["ema=False changes nothing"]),
        ({"variant": "fp16", "ema": False}, ["variant=fp16 changes", "ema=False changes"]),
        ({}, []),
    ],
)
@pytest.mark.parametrize("name", ["emoji", "a folder"])
def test_choices_of_weights_that_a_model_does_not_have_are_named(
    models, name, asked, lines, tmp_path
):
    if name == "a folder":
        name = tmp_path / "map"
        save_map(name, models("tiny"))
    warnings = open_checkpoint(name, **asked).warnings
    assert len(warnings) == len(lines)
    assert all(line in warning for line, warning in zip(lines, warnings, strict=True))
    assert [
        line for line in ldmref.load(name, **asked).warnings if "changes nothing" in line
    ] == warnings


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("cfg_scale", 3.0), ("guidance", "rescale"), ("negative_prompt", "x")],
)
def test_a_map_names_the_parameter_that_it_does_not_take(models, parameter, value):
    with pytest.raises(UsageError, match=f"takes no {parameter}=") as caught:
        modes.txt2img(models("map"), "a", **{parameter: value})
    assert caught.value.parameter == parameter


@pytest.mark.parametrize(
    ("mode", "parameters", "line"),
    [
        ("inpaint", {"padding": 4}, "padding=4 changes nothing: the whole image is generated"),
        ("inpaint", {"resample": (2, 2), "steps": 2}, "resample=2,2 changes nothing: no jump"),
        ("img2img", {"tile": 512}, "tile=512 changes nothing: an image of 16 x 16 is a single"),
        ("img2img", {"resize": "fill"}, "resize=fill changes nothing: the image is 16 x 16"),
        ("txt2img", {"guidance": "rescale", "cfg_scale": 1}, "guidance=rescale changes nothing at"),
        ("txt2img", {"noise_path": "flow", "sampler": "ddim"}, "steps of ddim are the same on"),
    ],
)
def test_the_warning_says_why(tiny, mode, parameters, line):
    result = getattr(modes, mode)(tiny, **request(mode) | parameters)
    assert sum(line in warning for warning in result.warnings) == 1
    plain = getattr(modes, mode)(tiny, **request(mode))
    assert not any("changes nothing" in warning for warning in plain.warnings)
