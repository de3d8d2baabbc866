"""A parameter is declared once: checks, documentation, flags, record and schema come from there."""

from __future__ import annotations

import inspect
import json

import pytest
from PIL import Image
from small_models import config_for

import ldmref
from ldmref import modes
from ldmref.apps.cli.options import parameter_options
from ldmref.apps.foreign import foreign_names
from ldmref.declare import Doc, Range, flag_names
from ldmref.errors import LdmrefError, UsageError
from ldmref.modes.registry import MODES

IMAGE = Image.new("RGB", (16, 16), "teal")
INPUTS = {
    "txt2img": {"prompt": "a"},
    "img2img": {"prompt": "a", "image": IMAGE},
    "inpaint": {"prompt": "a", "image": IMAGE, "mask": IMAGE},
    "interpolate": {"prompt": "a", "prompt_b": "b"},
    "invert": {"prompt": "a", "image": IMAGE},
    "edit": {"prompt": "a", "image": IMAGE},
}


@pytest.fixture(scope="module")
def config():
    return ldmref.random_model("tiny", backend="numpy").config


@pytest.mark.parametrize("mode", MODES)
def test_signature_and_documentation_name_every_parameter(mode):
    function = getattr(modes, mode)
    signature = inspect.signature(function).parameters
    text = inspect.getdoc(function)
    assert set(MODES[mode].parameters) < set(signature)
    for name, parameter in MODES[mode].parameters.items():
        argument = signature[name]
        default = None if parameter.required else parameter.default
        assert argument.default in (default, inspect.Parameter.empty), name
        assert f"{name}: " in text, name
        help = parameter.get(Doc).text
        assert help.endswith("."), name
        assert " ".join(help.split()[:4]) in " ".join(text.split()), name
        if parameter.optional and (parameter.required or parameter.default is None):
            assert f"None: {parameter.get(Doc).none}." in " ".join(text.split()), name


@pytest.mark.parametrize("mode", MODES)
def test_every_parameter_has_a_flag_or_its_command_has_one(mode):
    parameters = MODES[mode].parameters.values()
    own = [p.name for p in parameters if not flag_names(p)]
    assert set(own) <= {"prompt", "prompt_b", "positions"}
    foreign = [name for p in parameters if flag_names(p) for name in foreign_names(p)]
    assert len(parameter_options(parameters)) == len(parameters) - len(own) + len(foreign)


@pytest.mark.parametrize("mode", MODES)
def test_the_schema_is_json_and_names_what_is_required(mode):
    schema = json.loads(json.dumps(modes.schema(mode)))
    parameters = MODES[mode].parameters
    assert set(schema["properties"]) == set(parameters) and schema["title"] == mode
    assert schema["required"] == [name for name, p in parameters.items() if p.required]
    for name, property in schema["properties"].items():
        assert property["description"], name
        property = property | property.get("anyOf", [{}])[0]
        assert {"type", "enum"} & set(property), name
        if parameters[name].get(Range) is not None:
            assert property["minimum"] <= property["maximum"]


@pytest.mark.parametrize("mode", INPUTS)
def test_a_plan_needs_no_weights_and_its_parameters_plan_the_same(config, mode):
    config = config_for(mode, config)
    plan = (
        modes.plan(mode, config, **INPUTS[mode], seed=3, steps=2)
        if ("seed" in MODES[mode].parameters)
        else modes.plan(mode, config, **INPUTS[mode], steps=2)
    )
    params = json.loads(json.dumps(plan.params))
    assert params["mode"] == mode and params["steps"] == 2
    takes = MODES[mode].parameters
    again = {name: value for name, value in params.items() if name in takes} | INPUTS[mode]
    again.pop("seed" if mode == "interpolate" else "", None)
    assert modes.plan(mode, config, **again).params | {"seed": 0, "seed_b": 0} == params | {
        "seed": 0,
        "seed_b": 0,
    }


@pytest.mark.parametrize("mode", MODES)
def test_numbers_out_of_range_are_refused_by_name(config, mode):
    inputs = INPUTS.get(mode, {"image": IMAGE} if mode == "superres" else {})
    for name, parameter in MODES[mode].parameters.items():
        limits = parameter.get(Range)
        if limits is None:
            continue
        for value in (limits.low - 1, limits.high + 1, "1", float("nan")):
            arguments = inputs | {name: value}
            with pytest.raises(UsageError) as caught:
                modes.plan(
                    mode, config, **arguments | ({"segmentation": 0} if mode == "seg2img" else {})
                )
            assert name in str(caught.value) and caught.value.code.startswith("E-")


def test_what_a_mode_does_not_take_is_refused(config):
    with pytest.raises(UsageError, match="no parameter 'stpes'") as caught:
        modes.plan("txt2img", config, prompt="a", stpes=3)
    assert "'steps'" in caught.value.hint
    with pytest.raises(UsageError, match="needs prompt and image"):
        modes.plan("img2img", config)
    with pytest.raises(UsageError, match="unknown mode 'txt2imgg'"):
        modes.plan("txt2imgg", config)
    with pytest.raises(LdmrefError):
        modes.plan("txt2img", config, prompt="a", mask=IMAGE)
