"""The first commands of docs/fine-tuning.md, run to their end, learn what the page shows."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_fine_tuning_image.py"))
PAGE = ROOT / "docs" / "fine-tuning.md"


def distance(image, other):
    """Return the mean difference of two images, in grey levels."""
    arrays = [np.asarray(x.convert("RGB").resize((64, 64)), float) for x in (image, other)]
    return np.abs(arrays[0] - arrays[1]).mean()


def blue(image):
    """Red, green and blue of the most frequent colours: the median."""
    return np.median(np.asarray(image.convert("RGB"), float), axis=(0, 1))


@pytest.mark.slow
def test_the_first_command_learns_the_style(tmp_path):
    """The loss that the page states; a prompt of the data set becomes its image, and one that is
    not in it takes the colours."""
    text = " ".join(PAGE.read_text().split())
    documented = re.search(r"last 100 of 400 steps are below ([0-9.]+) on average", text)
    assert documented is not None
    SCRIPT["make_data"](tmp_path)
    run = SCRIPT["train"](tmp_path)
    assert SCRIPT["last_loss"](run) < float(documented[1])
    trained = SCRIPT["TRAINED"]
    new = SCRIPT["NEW"]
    before = SCRIPT["generate"]([*trained, *new], None)
    after = SCRIPT["generate"]([*trained, *new], run / "lora.safetensors")
    style = [Image.open(tmp_path / "blueprints" / f"{name}.png") for name in trained]
    for name, want, old, tuned in zip(trained, style, before, after, strict=False):
        assert distance(tuned, want) < 0.5 * distance(old, want), name
    paper = blue(style[0])
    for name, old, tuned in zip([*trained, *new], before, after, strict=True):
        assert np.abs(blue(tuned) - paper).max() < 0.5 * np.abs(blue(old) - paper).max(), name


def test_the_data_set_is_made_in_the_style(tmp_path, monkeypatch):
    """The page's block, on images without a network."""
    import ldmref

    class Made:
        images = [Image.radial_gradient("L").resize((128, 128)).convert("RGB")] * 24

    monkeypatch.setattr(ldmref, "load", lambda: None)
    monkeypatch.setattr(ldmref.modes, "txt2img", lambda model, names, seed: Made)
    SCRIPT["make_data"](tmp_path)
    files = sorted((tmp_path / "blueprints").iterdir())
    assert len(files) == 24 and {*SCRIPT["TRAINED"]} <= {file.stem for file in files}
    assert {*SCRIPT["NEW"]}.isdisjoint(file.stem for file in files)
    assert Image.open(files[0]).size == (128, 128)


def test_the_image_is_small():
    assert SCRIPT["OUT"].stat().st_size < 200_000
