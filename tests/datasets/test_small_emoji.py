"""The small emoji: complete, as the font renders them, and usable without the font."""

from __future__ import annotations

import hashlib
import runpy
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldmref.apps.cli.main import main
from ldmref.datasets import DataConfig, check_data, load_dataset
from ldmref.datasets.emoji import emoji_dataset, font, small_emoji
from ldmref.datasets.emoji.small import COLUMNS, SIDE, SUBGROUPS, small_list
from ldmref.errors import InputError, UsageError
from ldmref.training import read_recipe

ROOT = Path(__file__).parents[2]
FOLDER = files("ldmref").joinpath("assets", "small-emoji")
FONT_DIGEST = "e5899ed38b8ed83e"


@pytest.fixture
def without_font(monkeypatch):
    """No file of Debian is installed; a font that was loaded before is forgotten."""
    monkeypatch.setattr(font, "FONT", Path("/nowhere/NotoColorEmoji.ttf"))
    monkeypatch.setattr(emoji_dataset, "KEYWORDS", Path("/nowhere/en.xml"))
    font.font.cache_clear()
    yield
    font.font.cache_clear()


def test_names_and_images(without_font):
    pairs = small_emoji()
    assert len(pairs) == len({name for name, _ in pairs}) == 156
    assert all(image.size == (SIDE, SIDE) and image.mode == "RGB" for _, image in pairs)
    heart = np.asarray(dict(pairs)["red heart"])
    assert heart[0, 0].tolist() == [255, 255, 255]
    assert heart[14, 16, 0] > 200 and heart[14, 16, 1] < 120
    assert len({image.tobytes() for _, image in pairs}) >= 155  # two may be equal


def test_subgroups_are_selected_in_the_order_asked_for():
    names = [name for name, _ in small_emoji("food-fruit", "heart")]
    assert names[0] == "grapes" and len(names) == 19 + 25 and "red heart" in names[19:]
    assert small_emoji("heart", "heart") == small_emoji("heart")
    with pytest.raises(UsageError, match="no subgroup 'hearts'") as caught:
        small_emoji("hearts")
    assert "'heart'" in caught.value.hint


def test_every_subgroup_has_the_size_that_the_docstring_says():
    text = " ".join((small_emoji.__doc__ or "").split())
    for subgroup in SUBGROUPS:
        count = len(small_emoji(subgroup))
        assert f'"{subgroup}" ({count}' in text


def test_the_files_are_small_and_have_their_licence():
    assert sum(len(file.read_bytes()) for file in FOLDER.iterdir()) < 400_000
    licence = FOLDER.joinpath("OFL.txt").read_text("utf-8")
    assert "SIL OPEN FONT LICENSE" in licence and "Noto Color Emoji" in licence
    with FOLDER.joinpath("emoji.png").open("rb") as stream, Image.open(stream) as image:
        assert image.size == (COLUMNS * SIDE, len(small_list()) // COLUMNS * SIDE)


def test_the_script_makes_the_image(skip):
    if not font.FONT.exists():
        skip("images of the small emoji", "the emoji font is not on this machine")
    if hashlib.sha256(font.FONT.read_bytes()).hexdigest()[:16] != FONT_DIGEST:
        skip("images of the small emoji", "the font is of another version")
    made = runpy.run_path(str(ROOT / "scripts" / "make_small_emoji.py"))["sheet"]()
    with FOLDER.joinpath("emoji.png").open("rb") as stream, Image.open(stream) as image:
        difference = np.asarray(made, int) - np.asarray(image.convert("RGB"), int)
    assert np.abs(difference).max() <= 2  # Pillow's resampling may round differently


@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_data_set_has_no_need_of_a_font(without_font, size):
    config = DataConfig("small-emoji", size)
    check_data(config)
    data = load_dataset(config)
    assert data.images.shape == (156, 3, size, size) and data.images[:].dtype == np.uint8
    assert data.caption(25, np.random.default_rng(0)) == "grapes" == data.vocabulary()[25]
    assert data.classes[25] == "food fruit" and len(data.weights) == 156
    image = Image.fromarray(np.asarray(data.images[25]).transpose(1, 2, 0)).resize((SIDE, SIDE))
    near = np.abs(np.asarray(image, float) - np.asarray(small_emoji("food-fruit")[0][1]))
    assert near.mean() < 20


def test_the_recipe_tiny_needs_no_font(without_font):
    recipe = read_recipe("tiny")
    assert recipe.data.source == "small-emoji"
    check_data(recipe.data)


def test_train_tiny_runs_without_the_font(without_font, tmp_path, capsys, skip):
    if "torch" not in sys.modules:
        pytest.importorskip("torch")
    out = tmp_path / "tiny"
    steps = ["--autoencoder-steps", "1", "--steps", "1", "--autoencoder-batch", "2", "--batch", "2"]
    assert main(["train", "tiny", *steps, "-o", str(out)]) == 0, capsys.readouterr().err
    assert (out / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("source", ["emoji", "scenes"])
def test_a_missing_font_names_both_ways_out(without_font, source):
    with pytest.raises(InputError, match="needs the emoji font") as caught:
        check_data(DataConfig(source, 16))
    assert caught.value.code == "E-DATA"
    assert "--font" in caught.value.hint and "--data small-emoji" in caught.value.hint


def test_a_file_that_is_not_the_font_is_named(tmp_path):
    file = tmp_path / "font.ttf"
    file.write_bytes(b"not a font")
    with pytest.raises(InputError, match=r"font\.ttf' is not a font"):
        check_data(DataConfig("emoji", 16, font=str(file)))
    with pytest.raises(InputError, match="no-such"):
        check_data(DataConfig("emoji", 16, font=str(tmp_path / "no-such.ttf")))


def test_the_font_may_be_anywhere(tmp_path, monkeypatch, skip):
    if not font.FONT.exists():
        skip("a font at another path", "the emoji font is not on this machine")
    copy = tmp_path / "copy.ttf"
    copy.symlink_to(font.FONT)
    monkeypatch.setattr(font, "FONT", tmp_path / "none.ttf")
    few = font.emoji_list()[::400]
    monkeypatch.setattr(emoji_dataset, "emoji_list", lambda: few)
    data = load_dataset(DataConfig("emoji", 16, font=str(copy)))
    scenes = load_dataset(DataConfig("scenes", 16, 5000, font=str(copy)))
    assert (scenes.images[:3] == data.images[:3]).all()
    assert (scenes.images[len(few) : len(few) + 2] < 255).any()


def test_keywords_may_be_anywhere(tmp_path, monkeypatch):
    file = tmp_path / "en.xml"
    file.write_text('<a><annotation cp="❤">love | sweetheart</annotation></a>', "utf-8")
    assert emoji_dataset._keywords(str(file)) == {"❤️": ["love", "sweetheart"]}
    file.write_text("<a>", "utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        emoji_dataset._keywords(str(file))
    with pytest.raises(InputError, match="is not a file"):
        emoji_dataset._keywords(str(tmp_path / "none.xml"))


def test_the_files_of_a_recipe_are_beside_it(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[data]\nsource = "emoji"\nfont = "font.ttf"\nkeywords = "en.xml"\n', "utf-8")
    data = read_recipe(str(path)).data
    assert data.font == str(tmp_path / "font.ttf") and data.keywords == str(tmp_path / "en.xml")


@pytest.mark.parametrize("command", ["train", "finetune", "evaluate"])
def test_the_flag_reaches_the_data(command, tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    arguments = {
        "train": ["train", "emoji", "-o", "out"],
        "finetune": ["finetune", "lora", "--data", "emoji", "-o", "out"],
        "evaluate": ["evaluate", "emoji"],
    }[command]
    assert main([*arguments, "--font", "nowhere.ttf"]) != 0
    assert "nowhere.ttf' is not a file" in capsys.readouterr().err
