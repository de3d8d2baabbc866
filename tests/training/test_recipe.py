"""Recipes: what is read, refused and written."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from ldmref.datasets.config import DataConfig
from ldmref.errors import LdmrefError
from ldmref.prompts.words import POOLED_END, parse_word_tokenizer, word_tokenizer
from ldmref.training.recipes.file import SHIPPED, read_recipe, recipe_from_dict, to_toml
from ldmref.training.recipes.schema import CheckpointConfig, Recipe


def test_a_file_with_defaults_and_overrides(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'seed = 3\n[data]\nsource = "images"\n[model]\npreset = "tiny"\n[model.unet]\n'
        "layers_per_block = 2\n[diffusion.optimizer]\nlearning_rate = 1\n"
    )
    recipe = read_recipe(file, {"diffusion": {"budget": {"steps": 7}}, "data": {"size": 32}})
    assert recipe.data == DataConfig(str(tmp_path / "images"), 32)
    assert recipe.seed == 3 and recipe.diffusion.optimizer.learning_rate == 1.0
    assert recipe.model.unet.layers_per_block == 2 and recipe.diffusion.budget.steps == 7
    assert recipe.model.unet.sample_size == 16 and recipe.model.defaults.width == 32
    assert recipe.autoencoder == Recipe().autoencoder


def test_the_size_is_the_model_s_own_by_default():
    assert recipe_from_dict({}).data.size == 64
    assert recipe_from_dict({"model": {"preset": "tiny"}}).data.size == 16


@pytest.mark.parametrize("name", [path.stem for path in SHIPPED.glob("*.toml")])
def test_shipped_recipes_are_read_by_name_and_written_as_they_are(name):
    recipe = read_recipe(name)
    assert recipe == read_recipe(SHIPPED / f"{name}.toml")
    assert recipe_from_dict(tomllib.loads(to_toml(recipe))) == recipe


@pytest.mark.parametrize("name", ["sd3-tiny", "flux-tiny"])
def test_a_recipe_of_a_transformer_is_read_again_as_it_was_written(name):
    recipe = recipe_from_dict({"model": {"preset": name, "transformer": {"num_layers": 1}}})
    assert recipe.model.denoiser.num_layers == 1
    assert recipe_from_dict(tomllib.loads(to_toml(recipe))) == recipe


def test_a_recipe_leaves_out_an_optional_text_encoder():
    recipe = recipe_from_dict(
        {"model": {"preset": "sd3-tiny", "text_encoder_3": {"model_type": "none"}}}
    )
    assert [text.model_type for text in recipe.model.text_encoders] == ["clip", "clip"]


def test_an_end_token_is_pooled_where_the_denoiser_reads_pooled_text():
    """The id 2 would stand for the word with the largest id."""
    for name in ("sd3-tiny", "flux-tiny"):
        texts = recipe_from_dict({"model": {"preset": name}}).model.text_encoders
        assert {text.eos_token_id for text in texts if text.model_type == "clip"} == {POOLED_END}
    words = word_tokenizer(["a red heart"], 8, pooled=True)
    assert words.token_to_id("<end>") == POOLED_END == 3
    assert words.encode("red").ids[-1] == POOLED_END
    assert parse_word_tokenizer(words.to_str(), "words").to_str() == words.to_str()


def test_the_emoji_recipe_is_the_default_in_bfloat16():
    default = replace(recipe_from_dict({}), dtype="bfloat16", checkpoint=CheckpointConfig(60))
    assert read_recipe("emoji") == default


def test_the_page_shows_the_defaults():
    page = (Path(__file__).parents[2] / "docs/training.md").read_text("utf-8")
    (text,) = re.findall(r"```toml\n(stages.*?)```", page, re.DOTALL)
    assert recipe_from_dict(tomllib.loads(text)) == recipe_from_dict({})


@pytest.mark.parametrize("source", ['a"b\\c', "größe\n\t", "x\x7f\u2028", "\U0001f600"])
def test_any_folder_survives_writing(source):
    recipe = recipe_from_dict({"data": {"source": source}})
    assert recipe_from_dict(tomllib.loads(to_toml(recipe))) == recipe


UNCONDITIONAL = {
    "model": {"preset": "sd3-tiny"},
    "diffusion": {"objective": {"condition": "none"}},
}
MISTAKES = [
    ({"sead": 1}, "E-RECIPE", "'seed'"),
    ({"data": {"sizes": 16}}, "E-RECIPE", "'size'"),
    ({"diffusion": {"steps": 3}}, "E-RECIPE", "budget"),
    ({"data": 3}, "E-RECIPE", ""),
    ({"model": [1]}, "E-RECIPE", ""),
    ({"seed": True}, "E-RECIPE", ""),
    ({"seed": -1}, "E-RECIPE", ""),
    ({"dtype": "float23"}, "E-RECIPE", ""),
    ({"data": {"source": 1}}, "E-RECIPE", ""),
    ({"data": {"size": 9}}, "E-SIZE", ""),
    ({"data": {"size": 2048}}, "E-SIZE", ""),
    ({"diffusion": {"optimizer": {"learning_rate": 0}}}, "E-LR", ""),
    ({"diffusion": {"optimizer": {"learning_rate": 10**400}}}, "E-LR", ""),
    ({"diffusion": {"optimizer": {"learning_rate": math.nan}}}, "E-LR", ""),
    ({"diffusion": {"optimizer": {"batch_size": 0}}}, "E-RECIPE", ""),
    ({"autoencoder": {"budget": {"steps": 1.5}}}, "E-RECIPE", ""),
    ({"checkpoint": {"seconds": math.inf}}, "E-RECIPE", ""),
    ({"model": {"preset": "emogi"}}, "E-PRESET", "'emoji'"),
    ({"model": {"preset": ["emoji"]}}, "E-RECIPE", ""),
    ({"model": {"preset": "sd15-inpainting"}}, "E-RECIPE", "from noise alone"),
    ({"model": {"preset": "sd3-tiny", "family": "flux"}}, "E-RECIPE", "leave family out"),
    ({"model": {"family": "fluks"}}, "E-CONFIG", "flux"),
    ({"model": {"preset": "sd3-tiny"}, "data": {"size": 64}}, "E-SIZE", "model.transformer"),
    ({"model": {"preset": "sd3-tiny", "text_encoder_2": {"model_type": "none"}}}, "E-CONFIG", ""),
    (UNCONDITIONAL, "E-RECIPE", "condition = 'text'"),
    ({"classifier": {"network": {"width": 20}}}, "E-RECIPE", ""),
    ({"autoencoder": {"objective": {"learn_variance": True}}}, "E-RECIPE", ""),
    ({"model": {"unet": {"sample_sizes": 3}}}, "E-CONFIG", "'sample_size'"),
]


@pytest.mark.parametrize(("tables", "code", "hint"), MISTAKES, ids=[str(m[0]) for m in MISTAKES])
def test_mistakes(tables, code, hint):
    with pytest.raises(LdmrefError) as caught:
        recipe_from_dict(tables)
    assert caught.value.code == code and hint in caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"seed = ", b"\xff", b"[a]\n[a]", b"a = " + b"[" * 100_000])
def test_files_that_are_no_toml(tmp_path, text):
    (tmp_path / "bad.toml").write_bytes(text)
    with pytest.raises(LdmrefError) as caught:
        read_recipe(tmp_path / "bad.toml")
    assert caught.value.code == "E-RECIPE-FILE"


@pytest.mark.parametrize("name", ["gone.toml", "tinny", "."])
def test_files_that_do_not_exist(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LdmrefError) as caught:
        read_recipe(name)
    assert caught.value.code == "E-RECIPE-FILE" and "tiny" in caught.value.hint


def test_reading_needs_no_torch():
    code = (
        "import sys, ldmref.training.training_run\n"
        "from ldmref.training import read_recipe\n"
        "read_recipe('emoji'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
