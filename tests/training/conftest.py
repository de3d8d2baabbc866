"""A folder of three images, and recipes of models of a few kilobytes."""

from __future__ import annotations

import pytest
from PIL import Image
from small_models import SMALL_MODEL

from ldmref.training.recipes.file import recipe_from_dict


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in (("red_square", "red"), ("blue-square", "blue"), ("green", "green")):
        Image.new("RGB", (20, 16), colour).save(folder / f"{name}.png")
    (folder / "green.txt").write_text("grass\n\nlawn\n", "utf-8")
    return folder


@pytest.fixture
def tables(images):
    """The tables of a recipe that takes a moment; `tables(diffusion={...})` replaces some."""

    def tables(steps=3, **changes):
        stage = {"optimizer": {"batch_size": 2, "warmup": 1}, "budget": {"steps": steps}}
        return {
            "data": {"source": str(images)},
            "model": SMALL_MODEL,
            "autoencoder": stage,
            "diffusion": stage,
            "progress": {"seconds": 0},
        } | changes

    return tables


@pytest.fixture
def recipe(tables):
    """The same as a recipe."""
    return lambda *args, **changes: recipe_from_dict(tables(*args, **changes))
