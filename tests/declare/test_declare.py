"""One declaration per field: reading, verifying, writing, and the JSON schema."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldmref.datasets.config import DataSummary
from ldmref.declare import (
    Check,
    Doc,
    Flag,
    Formerly,
    Invalid,
    Length,
    Names,
    Range,
    arguments_section,
    describe,
    flag_names,
    get_fields,
    long_flag,
    read,
    schema,
    verify,
    write,
)
from ldmref.errors import CorruptModelError
from ldmref.io.classifier import _config
from ldmref.models.config import ModelConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.presets import PRESETS
from ldmref.models.validate import config_from_dict
from ldmref.training.checkpoint import TrainingSettings
from ldmref.training.finetune.recipe import FineTuneRecipe
from ldmref.training.recipes.file import recipe_from_dict, recipe_path, to_toml
from ldmref.training.recipes.schema import Recipe


@dataclass(frozen=True)
class Inner:
    rate: Annotated[float, Range(0, 1, above=True)] = 0.5
    warmup: Annotated[int, Range(0, 100)] = 10


@dataclass(frozen=True)
class Outer:
    name: str
    steps: Annotated[int | None, Range(1, 1000), Doc("Sampler steps.")] = None
    kind: Literal["", "a", "b"] = ""
    on: bool = False
    stages: Annotated[tuple[str, ...], Names(("one", "two", "three"), prefix=True)] = ("one",)
    targets: Annotated[tuple[str, ...], Names(("x", "y"))] = ("x",)
    widths: Annotated[tuple[int, ...], Range(1, 9), Length(1, 3)] = (1,)
    share: float = 0.0
    inner: Inner = Inner(warmup=20)
    other: Inner | None = None
    made: Inner = field(default_factory=lambda: Inner(rate=0.25))


def message_of(data: Any, **more: Any) -> str:
    with pytest.raises(Invalid) as caught:
        read(Outer, data, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "it must be a table, not 3"),
        ({}, "missing key name"),
        ({"name": "n", "stpes": 0}, "unknown key stpes"),
        ({"name": 3}, "name must be a text, not 3"),
        ({"name": None}, "name must be a text, not None"),
        ({"name": "n", "steps": 0}, "steps must be a whole number from 1 to 1000, not 0"),
        ({"name": "n", "steps": "20"}, "steps must be a whole number from 1 to 1000, not '20'"),
        ({"name": "n", "steps": 2.5}, "steps must be a whole number from 1 to 1000, not 2.5"),
        ({"name": "n", "steps": True}, "steps must be a whole number from 1 to 1000, not True"),
        ({"name": "n", "kind": "c"}, "unknown kind 'c'"),
        ({"name": "n", "kind": 1}, "unknown kind 1"),
        ({"name": "n", "on": 1}, "on must be true or false, not 1"),
        ({"name": "n", "stages": []}, "stages must be ['one'] or ['one', 'two'] or "),
        ({"name": "n", "stages": ["two"]}, "stages must be ['one'] or ['one', 'two'] or "),
        ({"name": "n", "targets": ["z"]}, "targets must be a list of some of x, y, not ['z']"),
        ({"name": "n", "targets": "x"}, "targets must be a list of some of x, y, not 'x'"),
        ({"name": "n", "widths": []}, "widths must have from 1 to 3 entries, not 0"),
        ({"name": "n", "widths": 3}, "widths must be a list of whole numbers, not 3"),
        ({"name": "n", "widths": [1, 0]}, "widths[1] must be a whole number from 1 to 9, not 0"),
        ({"name": "n", "share": "x"}, "share must be a number, not 'x'"),
        ({"name": "n", "share": math.nan}, "share must be a number, not nan"),
        ({"name": "n", "inner": {"rate": 0}}, "inner.rate must be a number above 0 and at most 1"),
        ({"name": "n", "inner": {"rat": 1}}, "unknown key inner.rat"),
        ({"name": "n", "inner": None}, "inner must be a table, not None"),
        ({"name": "n", "other": {"warmup": -1}}, "other.warmup must be a whole number from 0 to"),
    ],
)
def test_messages_name_the_field_and_what_is_allowed(data, message):
    assert message_of(data).startswith(message)


def test_a_path_and_the_nearest_name():
    with pytest.raises(Invalid) as caught:
        read(Outer, {"name": "n", "inner": {"warmpu": 1}}, "recipe")
    assert caught.value.path == "recipe.inner.warmpu"
    assert "did you mean 'warmup'" in caught.value.hint
    with pytest.raises(Invalid) as caught:
        read(Outer, {"name": "n", "kind": "z"})
    assert caught.value.hint == 'Known: "", a, b'


def test_unknown_keys_come_before_wrong_values():
    assert message_of({"steps": 0, "stpes": 1, "name": 3}) == "unknown key stpes"


def test_values_are_of_the_declared_type():
    data = {"name": "n", "steps": np.int64(3), "share": 1, "widths": [np.int32(2), 3]}
    outer = read(Outer, data)
    assert outer == Outer("n", steps=3, share=1.0, widths=(2, 3))
    assert type(outer.steps) is int and type(outer.share) is float and type(outer.widths) is tuple


def test_nested_values_that_are_left_out_keep_the_outer_default():
    """A table of one key must not reset its neighbours to the inner class's defaults."""
    assert read(Outer, {"name": "n", "inner": {"rate": 0.1}}).inner == Inner(0.1, warmup=20)
    assert read(Outer, {"name": "n", "made": {"warmup": 3}}).made == Inner(0.25, warmup=3)
    base = Outer("base", inner=Inner(0.7, 7))
    assert read(Outer, {"inner": {"warmup": 8}}, base=base).inner == Inner(0.7, 8)
    assert read(Outer, {}, base=base) is not None and read(Outer, {}, base=base) == base


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion", "classifier", "features"])
def test_a_recipe_of_one_key_keeps_the_defaults_of_its_stage(stage):
    default = getattr(Recipe(), stage).optimizer
    recipe = read(Recipe, {stage: {"optimizer": {"warmup": 7}}}, base=Recipe())
    assert getattr(recipe, stage).optimizer == dataclasses.replace(default, warmup=7)


def test_an_instance_is_verified():
    verify(Outer("n"))
    with pytest.raises(Invalid, match=r"x\.inner\.rate must be a number above 0"):
        verify(Outer("n", inner=Inner(rate=2.0)), "x")
    with pytest.raises(Invalid, match=r"inner\.rate"):
        read(Outer, {"name": "n", "inner": Inner(rate=2.0)})


INNERS = st.builds(Inner, rate=st.floats(1e-9, 1), warmup=st.integers(0, 100))
OUTERS = st.builds(
    Outer,
    name=st.text(),
    steps=st.none() | st.integers(1, 1000),
    kind=st.sampled_from(["", "a", "b"]),
    on=st.booleans(),
    stages=st.sampled_from([("one",), ("one", "two"), ("one", "two", "three")]),
    targets=st.lists(st.sampled_from(["x", "y"]), min_size=1).map(tuple),
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    share=st.floats(allow_nan=False, allow_infinity=False),
    inner=INNERS,
    other=st.none() | INNERS,
    made=INNERS,
)


@given(OUTERS)
def test_reading_what_was_written_gives_the_same(outer):
    verify(outer)
    written = json.loads(json.dumps(write(outer)))
    assert read(Outer, written) == outer


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_writing(name):
    config = PRESETS[name]
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config
    written = json.loads(json.dumps(write(config.unet)))
    assert read(UNetConfig, written) == config.unet


@pytest.mark.parametrize("recipe", [Recipe(), FineTuneRecipe()], ids=lambda r: type(r).__name__)
def test_recipes_survive_writing(recipe):
    tables = tomllib.loads(to_toml(recipe))
    model = tables.pop("model", None)
    base = read(type(recipe), tables)
    assert (base if model is None else replace(base, model=config_from_dict(model))) == recipe


def test_the_schema_states_what_is_allowed():
    properties = schema(Outer)["properties"]
    assert schema(Outer)["required"] == ["name"] and not schema(Outer)["additionalProperties"]
    assert properties["steps"] == {
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": 1000}, {"type": "null"}],
        "description": "Sampler steps.",
    }
    assert properties["kind"] == {"type": "string", "enum": ["", "a", "b"], "default": ""}
    assert properties["widths"]["items"] == {"type": "integer", "minimum": 1, "maximum": 9}
    assert (properties["widths"]["minItems"], properties["widths"]["maxItems"]) == (1, 3)
    rate = properties["inner"]["properties"]["rate"]
    assert rate == {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.5}
    assert properties["inner"]["default"] == {"rate": 0.5, "warmup": 20}


@pytest.mark.parametrize("cls", [ModelConfig, Recipe, FineTuneRecipe], ids=lambda cls: cls.__name__)
def test_schemas_are_json_and_describe_every_field(cls):
    described = json.loads(json.dumps(schema(cls)))
    assert set(described["properties"]) == set(get_fields(cls))


@given(OUTERS, st.data())
def test_what_the_schema_forbids_is_refused(outer, data):
    """Numbers one beyond each limit of the schema are refused, the limits are not."""
    written = write(outer)
    limits = {"steps": (1, 1000), "widths": (1, 9)}
    name = data.draw(st.sampled_from(sorted(limits)))
    low, high = limits[name]
    value = data.draw(st.sampled_from([low - 1, low, high, high + 1]))
    changed = written | {name: [value] if name == "widths" else value}
    if low <= value <= high:
        read(Outer, changed)
    else:
        with pytest.raises(Invalid, match=name):
            read(Outer, changed)


@pytest.mark.parametrize("kind", ["modes", "good", "recipes", "configs"])
def test_the_answers_to_wrong_inputs_are_those_recorded(kind):
    """A change of a message shows up here: `python tests/declare/cases.py` writes the file."""
    recorded = json.loads(Path(__file__).with_name("messages.json").read_text())
    assert cases.answers()[kind] == recorded[kind]


@pytest.mark.parametrize("text", ["3", "[]", "null", '"x"', "", "{", '{"in_chanels": 4}', "{}"])
def test_a_damaged_classifier_configuration_is_a_damaged_file(text):
    with pytest.raises(CorruptModelError, match="bad classifier") as caught:
        _config(text)
    assert caught.value.code == "E-CONFIG"


@dataclass(frozen=True)
class Renamed:
    images: Annotated[int, Range(1), Formerly("pictures")] = 1


def test_an_earlier_name_is_read_and_the_present_one_written():
    assert read(Renamed, {"pictures": 3}) == read(Renamed, {"images": 3}) == Renamed(3)
    assert write(Renamed(3)) == {"images": 3}
    with pytest.raises(Invalid, match=r"data\.pictures and data\.images are one key"):
        read(Renamed, {"pictures": 3, "images": 3}, "data")
    with pytest.raises(Invalid, match=r"data\.images must be"):
        read(Renamed, {"pictures": 0}, "data")


def test_recipes_and_checkpoints_of_earlier_versions_are_read():
    recipe = recipe_from_dict({"data": {"source": "scenes", "pictures": 5000}})
    assert recipe.data.images == 5000
    tables = {"recipe": recipe.to_dict(), "data": {"pictures": 7, "sha256": "0"}}
    tables["recipe"]["data"]["pictures"] = tables["recipe"]["data"].pop("images")
    settings = TrainingSettings.from_dict(tables)
    assert settings == TrainingSettings(recipe, DataSummary(7, "0"))
    assert recipe_path("pictures") == recipe_path("images")


def whole(name, value):
    if value == "wrong":
        raise ValueError(name)
    return [int(value)]


def first(name, value):
    return whole(name, value[0] if isinstance(value, list) else value)


@dataclass(frozen=True)
class Special:
    size: Annotated[int | str, Check(first, {"type": ["integer", "string"]})]
    share: Annotated[float | None, Range(0, 1), Doc("A share.", "all of it")] = 0.5
    more: Annotated[int | str | None, Check(first, {"type": "integer"})] = 3
    on: bool = False
    flagged: Annotated[int, Flag(("-f", "--fl"), "N"), Range(1, 2), Doc("A flag.")] = 1


def test_special_values_have_their_own_check():
    special = read(Special, {"size": "3"})
    assert (special.size, special.more) == ([3], [3]), "defaults are checked as well"
    assert read(Special, json.loads(json.dumps(write(special)))) == special
    with pytest.raises(ValueError, match="more"):
        read(Special, {"size": 1, "more": "wrong"})
    assert schema(Special)["properties"]["size"] == {"type": ["integer", "string"]}


def test_none_stands_for_the_default_of_an_optional_field():
    assert read(Special, {"size": 1, "share": None, "more": None}) == read(Special, {"size": 1})


def test_numpy_truth_values_are_read():
    assert read(Special, {"size": 1, "on": np.bool_(True)}).on is True


def test_descriptions_and_flags():
    fields = get_fields(Special)
    assert describe(fields["share"]) == "A share. From 0 to 1. Default: 0.5."
    assert describe(fields["flagged"]) == "A flag. From 1 to 2. Default: 1."
    assert flag_names(fields["flagged"]) == ("-f", "--fl") and long_flag(fields["flagged"]) == "fl"
    assert flag_names(fields["on"]) == ("--on",)
    section = arguments_section([("a", "word " * 30), ("b", "Short.")])
    assert section.startswith("Args:\n    a: word") and section.endswith("\n    b: Short.")
    assert max(map(len, section.splitlines())) <= 88
