"""Drawings in several styles: read from packages, composed, captioned, and one in ten held out."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import tarfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ldmref.datasets import DataConfig, check_data, load_dataset, summarize
from ldmref.datasets.emoji import drawings as drawings_module
from ldmref.datasets.emoji import style_dataset
from ldmref.datasets.emoji.captions import scene_caption, styled_caption
from ldmref.datasets.emoji.drawings import STYLE_WORDS, STYLES, Drawings, pictures
from ldmref.datasets.emoji.font import FONT, emoji_list
from ldmref.datasets.emoji.nouns import noun_by_name
from ldmref.datasets.emoji.rendering import render_scene
from ldmref.datasets.emoji.scene import BESIDE, Scene, Thing
from ldmref.datasets.emoji.scene_dataset import (
    SHARES,
    SceneDataset,
    held_out_scene,
    training_scene,
)
from ldmref.datasets.parallel import make_in_parallel
from ldmref.errors import InputError
from tests.conftest import require

COLOURS = ("#d22", "#2a2", "#22d", "#dd2", "#2dd", "#d2d")


def body(style: int, number: int) -> str:
    """Return a drawing: a square in the colour of the style, as large as its number says."""
    side = 8 + number % 8
    return f'<rect x="0" y="0" width="{side}" height="16" fill="{COLOURS[style]}"/>'


def write_package(folder, style, icons):
    data = json.dumps({"prefix": style.package, "width": 16, "height": 16} | icons).encode()
    path = folder / style.file
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("package/icons.json")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Return a folder with small packages of the six styles; the last has a tenth of the names."""
    require("resvg_py")
    folder = tmp_path_factory.mktemp("packages")
    slugs = [drawings_module.key_of(e.name) for e in emoji_list() if not e.has_skin_tone]
    styles = []
    for number, style in enumerate(STYLES):
        known = slugs[:: 10 if style.word == "firefox" else 1]
        icons = {slug: {"body": body(number, i)} for i, slug in enumerate(known)}
        digest = write_package(folder, style, {"icons": icons, "aliases": {}})
        styles.append(replace(style, sha256=digest))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawings_module, "STYLES", tuple(styles))
        yield str(folder)


# -- packages --------------------------------------------------------------------------------------


def test_names_of_unicode_find_the_keys_of_each_set(tmp_path, monkeypatch):
    require("resvg_py")
    icons = {
        "icons": {
            key: {"body": body(0, i)}
            for i, key in enumerate(
                ("red-heart", "flag-for-iceland", "dogface", "pinata", "artist-dark", "keycap-hash")
            )
        },
        "aliases": {"red-apple": {"parent": "red-heart"}},
    }
    styles = [replace(s, sha256=write_package(tmp_path, s, icons)) for s in STYLES]
    monkeypatch.setattr(drawings_module, "STYLES", tuple(styles))
    found = Drawings(str(tmp_path))
    names = {name for name, _ in found.svg}
    assert names == {
        "red heart", "flag: Iceland", "dog face", "piñata", "artist: dark skin tone", "keycap: #",
        "red apple",
    }  # fmt: skip
    assert found.svg["red apple", "noto"] == found.svg["red heart", "noto"]
    sprite = found.sprite("red heart", "noto")
    assert sprite.shape == (136, 136, 4) and sprite.dtype == np.uint8
    assert sprite[68, 30].tolist() == [221, 34, 34, 255] and sprite[68, 120].tolist() == [0] * 4
    assert not sprite[:4].any() and sprite[5, 30, 3] == 255  # 128 pixels, centred


def test_a_folder_without_the_packages_is_refused_with_the_command_that_fetches_them(
    packages, tmp_path
):
    for folder in ("", str(tmp_path)):
        with pytest.raises(InputError) as caught:
            check_data(DataConfig("styles", size=16, packages=folder))
        assert f"npm pack @iconify-json/noto@{STYLES[0].version}" in caught.value.hint
    check_data(DataConfig("styles", size=16, packages=packages))


def test_a_package_that_was_changed_is_refused(packages, tmp_path):
    for style in STYLES:
        (tmp_path / style.file).write_bytes(b"not the published one")
    with pytest.raises(InputError, match="not the package that was published"):
        load_dataset(DataConfig("styles", size=16, images=5000, packages=str(tmp_path)))


def test_each_style_has_its_licence_and_none_is_share_alike():
    assert len({style.word for style in STYLES}) == len(STYLES) == 6
    assert {style.licence for style in STYLES} == {"Apache-2.0", "MIT", "CC-BY-4.0"}


# -- what is held out ------------------------------------------------------------------------------


def test_a_tenth_of_the_pairs_is_held_out_where_other_styles_have_the_name(packages):
    found = drawings_module.drawings(packages)
    shown, held_out = (set(pictures(packages, held)) for held in (False, True))
    assert not shown & held_out and len(shown) + len(held_out) == len(found.svg)
    assert 0.08 < len(held_out) / len(found.svg) < 0.12
    for emoji, style in held_out:
        assert found.is_held_out(emoji.name, style)
        assert len(found.styles_of(emoji.name)) >= 3 and not emoji.has_skin_tone
        assert style not in found.trained_styles(emoji.name)


def shown_pairs(scene):
    return {(noun_by_name(thing.noun).emoji.name, thing.style) for thing in scene.things}


@pytest.mark.parametrize("held_out_combination", [False, True])
def test_scenes_never_show_a_pair_that_is_held_out(packages, held_out_combination):
    found = drawings_module.drawings(packages)
    make = training_scene
    if held_out_combination:

        def make(seed, i, source):
            return held_out_scene([*SHARES][i % len(SHARES)], seed, i, source)

    scenes = [make(0, i, packages) for i in range(300)]
    pairs = set().union(*map(shown_pairs, scenes))
    assert all(style in found.trained_styles(name) for name, style in pairs)
    counts = Counter(style for _, style in pairs)
    assert set(counts) == set(STYLE_WORDS)
    two = [s for s in scenes if len(s.things) == 2]
    across = sum(len(s.styles) == 2 for s in two) / len(two)
    assert 0.05 < across < 0.35  # 0.2, less a sixth that agree by chance


def test_scenes_of_the_font_have_no_style(skip):
    if not FONT.exists():
        skip("the emoji font", "of Debian is not on this machine")
    found = {thing.style for i in range(50) for thing in training_scene(0, i).things}
    assert found == {""}


# -- captions --------------------------------------------------------------------------------------


def test_captions_name_the_style_in_half_of_all_cases():
    rng = np.random.default_rng(0)
    captions = Counter(styled_caption("a cat", "firefox", rng) for _ in range(2000))
    assert set(captions) == {"a cat", "a firefox cat", "a cat in firefox style"}
    assert 0.45 < captions["a cat"] / 2000 < 0.55
    others = {styled_caption("the owl", "noto", rng) for _ in range(50)}
    assert others == {"the owl", "the noto owl", "the owl in noto style"}
    assert "noto owl" in {styled_caption("owl", "noto", rng) for _ in range(50)}


def test_captions_of_two_styles_name_both():
    rng = np.random.default_rng(0)
    things = (Thing("dog", "blue", style="noto"), Thing("cat", size="small", style="twemoji"))
    for _ in range(50):
        caption = scene_caption(Scene("pair", things, BESIDE), rng)
        assert "noto dog" in caption and "twemoji cat" in caption
    same = tuple(replace(thing, style="flat") for thing in things)
    captions = [scene_caption(Scene("pair", same, BESIDE), rng) for _ in range(400)]
    named = [c for c in captions if "flat" in c]
    assert 0.4 < len(named) / len(captions) < 0.6
    assert any(c.endswith("in flat style") for c in named) and any("flat dog" in c for c in named)


# -- the data set ----------------------------------------------------------------------------------


def test_the_data_set_shows_each_pair_once_and_then_scenes(packages):
    data = load_dataset(DataConfig("styles", size=16, images=10_500, packages=packages))
    shown = pictures(packages)
    assert data.images.shape == (10_500, 3, 16, 16)
    assert data.classes[: len(shown)] == [style for _, style in shown]
    assert np.isclose(data.weights[: len(shown)].sum(), 0.5)
    scene = training_scene(0, 0, packages)
    expected = render_scene(scene, 16, packages).transpose(2, 0, 1)
    assert np.array_equal(data.images[len(shown) : len(shown) + 1][0], expected)
    rng = np.random.default_rng(0)
    words = {word for text in data.vocabulary() for word in text.lower().split()}
    assert set(STYLE_WORDS) <= words and "style" in words
    assert data.caption(0, rng)
    assert summarize(data) == summarize(data)


def test_images_that_processes_make_are_those_that_are_made_when_they_are_needed(
    packages, monkeypatch
):
    few = emoji_list()[::60]
    monkeypatch.setattr(style_dataset, "pictures", lambda folder: pictures(folder)[::60])
    lazy = SceneDataset(16, 250, packages=packages)
    eager = SceneDataset(16, 250, packages=packages)
    eager.make_images(2)
    assert isinstance(eager.images, np.ndarray) and len(eager.names.images) < 200
    assert np.array_equal(eager.images, lazy.images[:])
    assert eager.digest() == lazy.digest()

    monkeypatch.setattr(drawings_module, "emoji_list", lambda: few)
    one, all_at_once = Drawings(packages), Drawings(packages)
    all_at_once.draw_all(2)
    for name, style in one.svg:
        assert np.array_equal(one.sprite(name, style), all_at_once.sprite(name, style))


def test_a_process_that_fails_is_reported():
    class Broken:
        shape = (100, 2)

        def __getitem__(self, index):
            raise SystemExit(3)

    if "fork" in multiprocessing.get_all_start_methods():
        with pytest.raises(InputError, match="could not be made"):
            make_in_parallel(Broken(), 2)
