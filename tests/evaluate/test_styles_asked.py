"""Names and styles of pictures where both are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ldmref.datasets import StyledImages
from ldmref.evaluate.styles import choose_names, choose_pairs, measure_asked, measure_shares

NAMES = [f"name {i}" for i in range(40)]
STYLES = ["flat", "noto", "round", "square"]


def world(seed=0):
    """Return drawings whose features are those of the name and, less, those of the style."""
    rng = np.random.default_rng(seed)
    of_name = {name: 10 * rng.standard_normal(8) for name in NAMES}
    of_style = {style: 2 * rng.standard_normal(8) for style in STYLES}
    pairs = list(itertools.product(NAMES, STYLES))
    shown = np.arange(len(pairs)) % 10 != 3
    names, styles = (list(column) for column in zip(*pairs, strict=True))
    images = np.zeros((len(pairs), 3, 1, 1), np.uint8)
    features = {pair: of_name[pair[0]] + of_style[pair[1]] for pair in pairs}
    return StyledImages(names, styles, shown, images), features


def values(section):
    return {row.name: row.value for row in section.rows}


PICTURES, FEATURES = world()
GALLERY = np.stack([*FEATURES.values()])


@pytest.mark.parametrize("shown", [True, False])
def test_pairs_are_those_that_training_shows_or_never_shows(shown):
    asked = choose_pairs(PICTURES, shown, 12, np.random.default_rng(0))
    index = {pair: i for i, pair in enumerate(FEATURES)}
    found = [index[pair] for pair in zip(asked.names, asked.styles, strict=True)]
    assert len(set(found)) == 12 and (PICTURES.shown[found] == shown).all()
    assert asked.prompts[0] == f"{asked.names[0]} in {asked.styles[0]} style"
    assert (
        len(choose_pairs(PICTURES, shown, 10_000, np.random.default_rng(0)).names)
        == (PICTURES.shown == shown).sum()
    )


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_drawings_themselves_have_name_and_style(shown, noise):
    asked = choose_pairs(PICTURES, shown, 16, np.random.default_rng(1))
    exact = np.stack([FEATURES[pair] for pair in zip(*asked, strict=True)])
    x = exact + noise * np.random.default_rng(2).standard_normal(exact.shape)
    section = measure_asked(x, asked, PICTURES, GALLERY, "x")
    found = values(section)
    assert (found["name"], found["style"], found["both"]) == (1.0, 1.0, 1.0)
    distance = found["distance to the nearest drawing that training shows"]
    assert (distance < 0.5) == shown  # a pair that it never shows is elsewhere


def test_a_model_that_knows_one_style_has_the_names_and_that_style():
    asked = choose_pairs(PICTURES, True, 100, np.random.default_rng(1))
    x = np.stack([FEATURES[name, "noto"] for name in asked.names])
    found = values(measure_asked(x, asked, PICTURES, GALLERY, "x"))
    share = asked.styles.count("noto") / len(asked.styles)
    assert found["name"] == 1.0 and found["style"] == found["both"] == pytest.approx(share)


def test_a_model_that_draws_something_else_has_the_styles_alone():
    asked = choose_pairs(PICTURES, True, 60, np.random.default_rng(1))
    others = [NAMES[(NAMES.index(name) + 1) % len(NAMES)] for name in asked.names]
    x = np.stack([FEATURES[pair] for pair in zip(others, asked.styles, strict=True)])
    found = values(measure_asked(x, asked, PICTURES, GALLERY, "x"))
    assert (found["name"], found["style"], found["both"]) == (0.0, 1.0, 0.0)


def test_a_drawing_that_two_sets_share_counts_for_both():
    gallery = GALLERY.copy()
    gallery[1] = gallery[0]  # "name 0" in flat and in noto
    asked = choose_pairs(PICTURES, True, 0, np.random.default_rng(0))
    asked = asked._replace(names=["name 0"], styles=["noto"])
    found = values(measure_asked(gallery[:1], asked, PICTURES, gallery, "x"))
    assert found["both"] == 1.0


def test_shares_are_those_of_the_styles_that_appear():
    rng = np.random.default_rng(0)
    names, shares = choose_names(PICTURES, 4000, rng)
    assert sum(shares.values()) == pytest.approx(1.0) and set(shares) == set(STYLES)
    shown = {
        name: [s for n, s, seen in zip(*PICTURES[:3], strict=True) if n == name and seen]
        for name in NAMES
    }
    styles = [shown[name][rng.integers(len(shown[name]))] for name in names]
    x = np.stack([FEATURES[pair] for pair in zip(names, styles, strict=True)])
    for row in measure_shares(x, names, shares, PICTURES, GALLERY).rows:
        style, expected = row.name.split(", ")
        assert row.value == styles.count(style) / len(styles)
        assert row.interval[0] - 0.02 < float(expected.split()[0]) < row.interval[1] + 0.02
    one = np.stack([FEATURES[name, "round"] for name in names])
    found = values(measure_shares(one, names, shares, PICTURES, GALLERY))
    assert {name.split(",")[0]: share for name, share in found.items()} == {
        "flat": 0.0,
        "noto": 0.0,
        "round": 1.0,
        "square": 0.0,
    }
