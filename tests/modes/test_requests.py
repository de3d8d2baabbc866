"""Requests: typed fields in the order of the documentation, public signatures, short reprs."""

from __future__ import annotations

import doctest
import inspect
from typing import get_args

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.declare import get_fields
from ldmref.errors import UsageError
from ldmref.models.presets import preset
from ldmref.modes.record import find_missing, find_several, replay, upgrade_record
from ldmref.modes.registry import MODES, name_arguments, read_request
from ldmref.modes.requests import Txt2Img
from ldmref.prompts.tokenizer import LONG_PROMPTS, PROMPT_WEIGHTS
from ldmref.samplers.noise import STREAMS

IMAGE = Image.new("RGB", (16, 16), "teal")
FIRST = ["prompt", "negative_prompt", "steps", "cfg_scale", "sampler", "schedule", "seed"]


def test_parameters_are_in_the_order_in_which_users_think():
    guidance = {"guidance", "guide"}
    names = [name for name in inspect.signature(modes.txt2img).parameters if name not in guidance]
    assert names[:11] == ["model", *FIRST, "width", "height", "count"]
    assert names[-2:] == ["callback", "cancel"]
    names = list(inspect.signature(modes.img2img).parameters)
    assert names[:6] == ["model", "prompt", "image", "strength", "negative_prompt", "steps"]
    for mode in MODES:
        declared = list(MODES[mode].parameters)
        assert list(inspect.signature(getattr(modes, mode)).parameters)[1:-2] == declared
        assert list(modes.schema(mode)["properties"]) == declared


def test_the_choices_are_those_of_the_code_that_reads_them():
    fields = get_fields(Txt2Img)
    assert fields["long_prompts"].choices == LONG_PROMPTS
    assert fields["prompt_weights"].choices == PROMPT_WEIGHTS
    assert fields["rng"].choices == tuple(STREAMS)


def test_requests_and_jobs_are_typed():
    plan = modes.plan("txt2img", preset("tiny"), prompt="a", steps=np.int64(3))
    assert plan.request.steps == 3 and type(plan.request.steps) is int
    assert plan.request.cfg_scale is None and isinstance(plan.job.cfg_scale, float)
    assert plan.job.sampler.name and plan.job.size == (plan.job.width, plan.job.height)
    inverted = modes.plan("invert", preset("tiny"), prompt="a", image=IMAGE)
    assert isinstance(inverted, modes.Plan) and inverted.request.iterations == 5


def test_none_is_the_default():
    inputs = {"prompt": "a", "image": IMAGE}
    request = read_request("img2img", inputs | {"strength": None, "negative_prompt": None})
    assert request.strength == 0.75 and request.negative_prompt == [""]


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1, 2, 3), {}, "takes 3 positional arguments but 4 were given"),
        ((1,), {"prompt": 2}, "multiple values for argument 'prompt'"),
    ],
)
def test_positional_arguments_are_checked(args, kwargs, message):
    with pytest.raises(TypeError, match=message):
        name_arguments("txt2img", ["prompt", "image"], args, kwargs)


def test_the_public_functions_refuse_what_plans_refuse():
    model = ldmref.random_model("tiny")
    with pytest.raises(UsageError, match="img2img needs image"):
        modes.img2img(model, "a")
    with pytest.raises(UsageError, match="txt2img has no parameter 'stpes'"):
        modes.txt2img(model, "a", stpes=3)
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        modes.txt2img(model, "a", "b")


def test_a_request_shows_what_differs_from_the_defaults():
    request = read_request("txt2img", {"prompt": "a cat", "steps": 3, "latents": np.ones(3)})
    assert repr(request).startswith("<Txt2Img: prompt=['a cat'], steps=3, latents=array(")
    assert "count" not in repr(request) and "control" not in repr(request)
    assert len(repr(read_request("txt2img", {"prompt": ["a" * 500] * 9, "seed": 3}))) < 240


def test_dir_shows_the_public_names():
    assert dir(modes) == sorted(modes.__all__)
    assert len(get_args(modes.plan.__annotations__["return"])) == 0  # a name, not a private union


def test_records_of_earlier_versions_are_upgraded():
    old = {"mode": "interpolate", "prompt": "a", "prompt_b": "b", "seed": 3, "seed_b": 5}
    assert upgrade_record(old)["seed"] == [3, 5] and old["seed"] == 3
    assert "seed_b" not in upgrade_record(old)
    inverted = {"prompt": "a cat", "cfg_scale": 1.0, "iterations": 2}
    old = {"mode": "invert", "prompt": "a dog", "steps": 4, "inverted": inverted}
    new = upgrade_record(old)
    assert (new["edit"], new["prompt"], new["iterations"]) == ("a dog", "a cat", 2)
    assert upgrade_record(new) == new
    assert "edit" not in upgrade_record({"mode": "invert", "prompt": "a", "inverted": 3})


@pytest.mark.parametrize("mode", ["txt2img", "interpolate", "img2img"])
def test_what_an_image_records_is_a_request(mode):
    model = ldmref.random_model("tiny")
    inputs = {
        "txt2img": {"prompt": "a"},
        "interpolate": {"prompt": "a", "prompt_b": "b", "positions": 3, "sampler": "ddim"},
        "img2img": {"prompt": "a", "image": IMAGE},
    }[mode]
    result = modes.plan(mode, model, steps=2, seed=7, **inputs).run(model)
    last = len(result) - 1
    record = upgrade_record(result.params_of(last))
    assert find_several(result.params_of(last)) == ""
    supplied = {"image": IMAGE} if mode == "img2img" else {}
    assert find_missing(record, {}) == list(supplied)
    again = modes.plan(mode, model, **replay(record, supplied)).run(model)
    assert again[0].tobytes() == result[last].tobytes()


def test_changes_of_a_replay_replace_what_belongs_to_them():
    params = modes.plan("txt2img", preset("tiny"), prompt="a", seed=1, sampler="ddim").params
    assert replay(params, {})["eta"] == 0.0 and "count" not in replay(params, {})
    changed = replay(params, {"sampler": "DPM++ 2M Karras"})
    assert "eta" not in changed and "schedule" not in changed
    assert {"steps", "schedule"}.isdisjoint(replay(params, {"sigmas": [2.0, 0.0]}))


@pytest.mark.parametrize("mode", MODES)
def test_the_example_of_the_docstring_runs(mode):
    function = getattr(modes, mode)
    text = inspect.getdoc(function)
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert f"\n{section}\n" in text, section
    example = doctest.DocTestParser().get_doctest(text, {mode: function}, mode, None, None)
    assert example.examples or mode in ("superres", "seg2img")
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0
