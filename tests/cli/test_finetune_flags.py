"""`ldmref finetune`: every flag has an effect, or is refused; defaults depend on the base."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from ldmref.apps.cli import finetune as command
from ldmref.models.presets import PRESETS, preset
from ldmref.training import training_run
from ldmref.training.finetune import finetuning_run as finetune_run
from ldmref.training.finetune import recipe as base_recipe
from ldmref.training.finetune.defaults import DEFAULTS, is_small
from ldmref.training.finetune.lora_targets import list_targets
from ldmref.training.finetune.recipe import FineTuneRecipe
from ldmref.training.recipes.file import SHIPPED, read_recipe

METHODS = {
    "lora": "LoRA",
    "textual-inversion": "Textual inversion",
    "full": "Full",
    "distill": "Distill",
}
VALUES = {
    "base": "BASE", "data": "DATA", "rank": "3", "alpha": "5", "targets": "text", "word": "<x>",
    "initial": "cat", "vectors": "3", "size": "64", "steps": "7", "batch": "3", "lr": "3e-5",
    "seed": "9", "device": "meta", "dtype": "bfloat16", "font": "font.ttf",
    "packages": "packages", "processes": "2",
}  # fmt: skip
NOT_SETTINGS = """
    recipe output accept_changes trace trace_steps as_json verbose no_plots model_config
""".split()
OPTIONS = [p for p in command.finetune.params if isinstance(p, click.Option)]
FLAGS = {p.name: (p.opts[0], p.help) for p in OPTIONS if p.name not in NOT_SETTINGS}


@pytest.fixture
def recipe_of(ldm, work, model_folder, monkeypatch):
    """The recipe that a command would train, as flat settings, or its error."""
    (work / "data").mkdir()
    recipes = []

    def record(recipe, folder, **arguments):
        recipes.append(recipe)
        return Path(folder)

    monkeypatch.setattr(finetune_run, "fine_tune", record)

    def recipe_of(*argv):
        argv = [{"BASE": str(model_folder), "DATA": "data"}.get(a, a) for a in argv]
        ran = ldm("finetune", *argv)
        return (ran.err, recipes.pop().to_dict()) if ran.code == 0 else (ran.err, None)

    return recipe_of


def test_the_values_are_of_every_flag():
    assert FLAGS.keys() == VALUES.keys()


@pytest.mark.parametrize("method", METHODS)
def test_plots_can_be_left_out(recipe_of, method):
    with_plots = recipe_of(method, "--data", ".")[1]
    without = recipe_of(method, "--data", ".", "--no-plots")[1]
    assert without == with_plots | {"progress": with_plots["progress"] | {"seconds": 0.0}}


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("method", METHODS)
def test_a_flag_has_an_effect_or_is_refused(recipe_of, method, flag):
    """Its help begins with the one method that has it; other methods refuse it by that name."""
    option, text = FLAGS[flag]
    owners = [name for name, title in METHODS.items() if text.startswith(f"{title}: ")]
    data = [] if flag == "data" else ["--data", "."]
    before = recipe_of(method, "--data", ".")[1]
    message, after = recipe_of(method, *data, option, VALUES[flag])
    if owners in ([], [method]):
        assert before and after and before != after
        changed = {key for key in after if before[key] != after[key]}
        others = {name.replace("-", "_") for name in METHODS if name != method}
        assert changed.isdisjoint(others), "of a table that this method does not read"
    else:
        assert after is None and f"{option} has no effect" in message
        assert f"ldmref finetune {owners[0]} {option}" in message


def test_a_word_without_its_method_is_refused(recipe_of):
    message, recipe = recipe_of("--data", ".", "--word", "<x>")
    assert recipe is None and "error[E-USAGE]: --word has no effect" in message


@pytest.mark.parametrize("flag", ["steps", "batch"])
@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.toml")))
def test_flags_of_a_denoiser_that_is_not_trained_are_refused(ldm, work, monkeypatch, name, flag):
    recipe = read_recipe(name)
    if isinstance(recipe, FineTuneRecipe):
        return  # trains a denoiser in any case
    monkeypatch.setattr(training_run, "train", lambda recipe, folder, **rest: folder)
    (work / "data").mkdir()
    ran = ldm("train", name, "--data", "data", f"--{flag}", "3")
    if "diffusion" in recipe.stages:
        assert ran.code == 0, ran.err
    else:
        assert ran.code == 2 and f"error[E-USAGE]: --{flag} has no effect" in ran.err
        assert f"--autoencoder-{flag}" in ran.err
        assert ldm("train", name, "--data", "data", f"--autoencoder-{flag}", "4").code == 0


# -- defaults -------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "fine-tuning.md"


def written(value):
    """Return a default as the page writes it."""
    if callable(value):  # all that the base has, or a choice
        return "all" if value is list_targets else "from the base"
    if isinstance(value, list):
        return value[0]
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def test_the_page_has_the_defaults():
    """Rows: `key` | small base | large base, a table for each method."""
    for method, defaults in DEFAULTS.items():
        section = PAGE.read_text().split(f"| `{method}` |", 1)[1].split("\n\n")[0]
        rows = re.findall(r"^\| `([a-z_.]+)`[^|]*\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
        got = {key: (small, large) for key, small, large in rows}
        want = {k: (written(small), written(large)) for k, (small, large) in defaults.items()}
        assert got == want


@pytest.mark.parametrize("recipe", METHODS)
@pytest.mark.parametrize(
    ("base", "column"), [("emoji-128", 0), ("tiny", 0), ("sd15", 1), ("sdxl", 1)]
)
def test_the_command_takes_the_defaults_of_its_base(recipe_of, monkeypatch, recipe, base, column):
    """Of Stable Diffusion a LoRA has the documented rate, 1e-4, and the embedded model its own."""
    monkeypatch.setattr(base_recipe, "read_model_config", lambda path, config: preset(base))
    _, settings = recipe_of(recipe, "--data", ".")
    for key, values in DEFAULTS[settings["method"]].items():
        value = settings
        for name in key.split("."):
            value = value[name]
        want = values[column](preset(base)) if callable(values[column]) else values[column]
        assert (list(value) if isinstance(value, tuple) else value) == want, key
    rate = settings["diffusion"]["optimizer"]["learning_rate"]
    assert rate == 1e-4 or (recipe, column) != ("lora", 1)


def test_small_and_large():
    small = {name for name, config in PRESETS.items() if is_small(config)}
    assert {"emoji", "emoji-128", "tiny"} <= small
    assert {"sd15", "sd2-base", "sd2-v", "sdxl"} <= PRESETS.keys() - small


def test_alpha_is_the_rank_where_it_is_left_out():
    for rank in (4, 32):
        recipe = read_recipe("lora", {"lora": {"rank": rank}})
        assert recipe.lora.alpha == rank == recipe.lora.rank
    assert read_recipe("lora", {"lora": {"rank": 4, "alpha": 8.0}}).lora.alpha == 8.0


def test_a_complete_recipe_does_not_look_for_its_base():
    """So the checkpoint of a base that is gone can be read."""
    complete = read_recipe("lora").to_dict() | {"base": "gone"}
    assert read_recipe(None, complete).to_dict() == complete
