"""The embedded model generates the requested image on every backend, from the seed alone."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom

import ldmref
from ldmref import modes

ROOT = Path(__file__).parents[1]
CARD = ROOT / "ldmref" / "assets" / "emoji" / "README.md"


@pytest.fixture(scope="module")
def model():
    return ldmref.load(backend="numpy")


@pytest.fixture(scope="module")
def heart(model):
    return modes.txt2img(model, "red heart", seed=1)


def share(image, test):
    return np.mean([test(*pixel) for pixel in np.asarray(image, int).reshape(-1, 3)])


def scaled(model, *pixels):
    """Pixels of an image of 64, in one of the model's size."""
    return [pixel * model.config.defaults.width // 64 for pixel in pixels]


def is_red(r, g, b):
    return r > 180 and g < 110 and b < 110


def test_a_red_heart_is_red_on_white(model, heart):
    assert heart.images[0].size == (128, 128) and not heart.warnings
    assert 0.25 < share(heart[0], is_red) < 0.75
    edge, top, bottom, left, right = scaled(model, 8, 4, 14, 30, 34)
    corner = np.asarray(heart[0])[-edge:, :edge]
    assert corner.min() > 225
    notch = np.asarray(heart[0], int)[top:bottom, left:right]
    assert (notch[..., 1] > 150).mean() > 0.5  # the heart's upper edge is notched


@pytest.mark.parametrize(
    "prompt,test",
    [
        ("blue heart", lambda r, g, b: b > 180 and r < 120),
        ("green apple", lambda r, g, b: g > 130 and b < 120 and r < 190),
        ("grinning face", lambda r, g, b: r > 200 and g > 150 and b < 130),
    ],
)
def test_colours_follow_the_words(model, prompt, test):
    assert share(modes.txt2img(model, prompt, seed=3)[0], test) > 0.2


def test_torch_draws_the_same_image(heart):
    pytest.importorskip("torch")
    other = modes.txt2img(ldmref.load(backend="torch"), "red heart", seed=1)
    difference = np.asarray(other[0], int) - np.asarray(heart[0], int)
    assert np.abs(difference).max() <= 1


def test_img2img_and_inpaint_of_the_heart(model, heart):
    blue = modes.img2img(model, "blue heart", heart[0], strength=0.9, seed=2)
    assert share(blue[0], lambda r, g, b: b > 150 and r < 120) > 0.2
    mask = Image.new("L", heart[0].size, 0)
    half_width = heart[0].width // 2
    mask.paste(255, (0, 0, half_width, heart[0].height))
    half = modes.inpaint(model, "blue heart", heart[0], mask, seed=2)
    before = np.asarray(heart[0])
    after = np.asarray(half[0])
    assert (before[:, half_width:] == after[:, half_width:]).all()
    assert (before[:, :half_width] != after[:, :half_width]).any()


@pytest.mark.slow
def test_it_composes_as_its_card_says(monkeypatch, skip):
    """20 held-out scenes of each kind agree with the card's share at a level of 1 in 10,000."""
    pytest.importorskip("torch")
    from ldmref.datasets.emoji.font import FONT

    if not FONT.exists():
        skip("the emoji font", "needed by the oracle, is not on this machine")
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    from composition_oracle import judge
    from evaluate_compositions import SEED, SHARES, scenes_and_prompts

    rows = re.findall(r"^\| (\w+) \| [^|]+ \| \*\*(\d+) %\*\* \|", CARD.read_text("utf-8"), re.M)
    assert [kind for kind, _ in rows] == list(SHARES)
    model = ldmref.load(backend="torch")
    for kind, percent in rows:
        scenes, prompts = scenes_and_prompts(kind, 20)
        images = modes.txt2img(model, prompts, seed=SEED, batch_size=4).images
        right = sum(judge(np.asarray(i), s).right for i, s in zip(images, scenes, strict=True))
        assert binom.cdf(right, 20, (int(percent) + 1) / 102) > 1e-4, (kind, right)


def test_the_package_says_what_the_model_is():
    from importlib.resources import files

    card = (files("ldmref") / "assets" / "emoji" / "README.md").read_text("utf-8")
    for word in ("OFL", "seed", "Recipe", "cannot"):
        assert word in card, word
    weights = files("ldmref") / "assets" / "emoji" / "model.safetensors"
    assert len(weights.read_bytes()) < 28_000_000


def test_the_map_is_nearer_to_guided_runs_than_its_base(model):
    """With equal evaluations: the base without guidance, which is its best use of so few."""
    flow_map = ldmref.load("emoji-map", backend="numpy")
    request = {"prompt": ["a blue dog", "two red cats on yellow"], "seed": [1, 2]}
    guided = modes.txt2img(model, **request).latents
    for steps in (1, 2, 4):
        mapped = modes.txt2img(flow_map, **request, steps=steps).latents
        plain = modes.txt2img(model, **request, steps=steps, cfg_scale=1).latents
        error, usual = (np.sqrt(np.mean((x - guided) ** 2)) for x in (mapped, plain))
        assert error < 0.9 * usual, steps
