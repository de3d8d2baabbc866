"""Composed scenes: what is shown, what never is, how it is said, and who judges it."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from ldmref.datasets import summarize
from ldmref.datasets.emoji import emoji_dataset
from ldmref.datasets.emoji import font as emoji_data
from ldmref.datasets.emoji.captions import scene_caption, scene_vocabulary
from ldmref.datasets.emoji.colours import BACKGROUNDS, COLOURS, recolour
from ldmref.datasets.emoji.nouns import article, nouns, plural
from ldmref.datasets.emoji.rendering import render_scene
from ldmref.datasets.emoji.scene import (
    ABOVE,
    BESIDE,
    FRAME,
    HELD_OUT,
    Scene,
    Thing,
    combinations,
    held_out_kinds,
    is_held_out,
    slots,
)
from ldmref.datasets.emoji.scene_dataset import SHARES, TESTED, held_out_scene, training_scene

needs_font = pytest.mark.skipif(
    not emoji_data.FONT.exists(), reason="fonts-noto-color-emoji is not on this machine"
)


def words(texts):
    return {word for text in texts for word in re.findall(r"\w+", text.lower())}


# -- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("singular", "plurals"),
    [
        ("cat", "cats"),
        ("fox", "foxes"),
        ("strawberry", "strawberries"),
        ("monkey", "monkeys"),
        ("sandwich", "sandwiches"),
        ("bus", "buses"),
        ("knife", "knives"),
        ("wolf", "wolves"),
        ("maple leaf", "maple leaves"),
        ("computer mouse", "computer mice"),
        ("ox", "oxen"),
        ("tropical fish", "tropical fish"),
        ("jellyfish", "jellyfish"),
        ("deer", "deer"),
        ("tomato", "tomatoes"),
        ("avocado", "avocados"),
        ("snowman", "snowmen"),
        ("cactus", "cacti"),
        ("goose", "geese"),
        ("old woman", "old women"),
        ("toy", "toys"),
    ],
)
def test_plurals(singular, plurals):
    assert plural(singular) == plurals


def test_articles():
    words = "apple owl unicorn ewe hourglass umbrella euro x-ray orange one-eyed cat".split()
    assert [article(w) for w in words] == "an an a a an an a an an a a".split()


def test_the_nouns_are_short_different_and_without_words_of_other_meaning():
    pool = nouns()
    names = [noun.singular for noun in pool]
    assert 600 <= len(pool) <= 900 and len(set(names)) == len(names)
    assert {"dog", "cat", "apple", "heart", "car", "fox", "pizza", "rocket", "man"} <= set(names)
    assert not words(names) & {*COLOURS, "two", "three", "four", "small", "big", "tone", "flag"}
    assert max(len(name.split()) for name in names) <= 3
    plurals = {noun.plural for noun in pool if noun.plural}
    assert {"dogs", "foxes", "strawberries", "knives", "sheep"} - plurals == {"sheep"}
    assert all(noun.article == (article(noun.singular) if noun.plural else "") for noun in pool)


# -- what is shown --------------------------------------------------------------------------------


@needs_font
def test_no_training_scene_is_held_out_and_every_kind_occurs():
    scenes = [training_scene(0, i) for i in range(800)]
    assert {scene.kind for scene in scenes} == set(SHARES)
    assert not any(held_out_kinds(scene) for scene in scenes)
    assert not any(is_held_out(c) for scene in scenes for c in combinations(scene))


@needs_font
@pytest.mark.parametrize("kind", SHARES)
def test_tested_scenes_are_held_out_in_what_is_tested_and_in_nothing_else(kind):
    scenes = [held_out_scene(kind, 3, i) for i in range(20)]
    assert all(held_out_kinds(scene) == {TESTED[kind]} for scene in scenes)
    assert len(set(scenes)) > 15


@needs_font
def test_every_word_of_every_tested_prompt_is_trained():
    """A word in another combination: no noun, colour or number is held out by itself."""
    rng = np.random.default_rng(0)
    known = words(scene_vocabulary())
    tested = [held_out_scene(kind, 1, i) for kind in SHARES for i in range(40)]
    assert words(scene_caption(scene, rng) for scene in tested) <= known
    trained = [training_scene(0, i) for i in range(3000)]
    shown = words(scene_caption(scene, rng) for scene in trained)
    assert shown <= known
    plurals = {noun.plural for noun in nouns()}
    rare = words(scene_caption(scene, rng) for scene in tested) - shown
    assert rare <= words(plurals) | words(noun.singular for noun in nouns())
    for noun in nouns():  # training has them all: each can occur in some scene
        counts = [("count", str(n), noun.singular) for n in range(2, 10)]
        colours = [("colour", colour, noun.singular) for colour in COLOURS]
        assert not all(map(is_held_out, counts)) and not all(map(is_held_out, colours))


def test_a_tenth_of_the_combinations_is_held_out():
    held = [is_held_out(("colour", "blue", f"noun {i}")) for i in range(4000)]
    assert abs(np.mean(held) - 1 / HELD_OUT) < 0.02
    pair = Scene("pair", (Thing("dog"), Thing("cat")), BESIDE)
    other = Scene("pair", (Thing("cat"), Thing("dog")), ABOVE)
    assert set(combinations(pair)) == set(combinations(other)) == {("pair", "cat", "dog")}


@needs_font
def test_scenes_depend_on_seed_and_index_alone():
    scenes = [training_scene(7, i) for i in (5, 3, 5)]
    assert scenes[0] == scenes[2] != scenes[1] != training_scene(8, 3)
    text = "\n".join(repr(training_scene(0, i)) for i in range(50))
    text = text.replace(", style=''", "")  # of the font
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "3d6d5156c7cdf7d2"


@pytest.mark.parametrize("size", ["", "small"])
@pytest.mark.parametrize("count", range(1, 10))
def test_slots_are_inside_the_frame_apart_and_on_the_latent_grid(count, size):
    scenes = [Scene("", (Thing("dog", count=count, size=size if count == 1 else ""),))]
    for relation in (BESIDE, ABOVE):
        for sizes in (("", ""), ("big", "small"), ("small", "big")):
            things = tuple(Thing(noun, size=s) for noun, s in zip(("a", "b"), sizes, strict=True))
            scenes.append(Scene("", things, relation))
    for scene in scenes:
        used = np.zeros((FRAME, FRAME), int)
        for slot in slots(scene):
            assert slot.x % 8 == slot.y % 8 == slot.side % 8 == 0
            assert min(slot.x, slot.y) >= 0 and max(slot.x, slot.y) + slot.side <= FRAME
            used[slot.y : slot.y + slot.side, slot.x : slot.x + slot.side] += 1
        assert used.max() == 1


# -- images -------------------------------------------------------------------------------------


@needs_font
def test_a_single_thing_is_drawn_as_the_font_draws_it():
    dog = next(e for e in emoji_data.emoji_list() if e.name == "dog")
    scene = render_scene(Scene("", (Thing("dog"),)))
    font = np.asarray(emoji_data.render(dog, FRAME))
    error = np.abs(scene.astype(int) - font)  # Lanczos is clipped before and after
    assert error.mean() < 0.3 and (error > 12).mean() < 0.01


@needs_font
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("noun", ["dog", "lemon", "ghost", "police car"])
def test_recoloured_things_have_that_colour_and_their_shape(noun, colour):
    plain = render_scene(Scene("", (Thing(noun),)))
    image = render_scene(Scene("", (Thing(noun, colour),)))
    changed = image.astype(int) - np.array(COLOURS[colour])
    near = (np.abs(changed).max(2) < 60).mean() / (plain.min(2) < 250).mean()
    assert near > 0.3
    assert ((plain.min(2) > 252) == (image.min(2) > 252)).mean() > 0.8


def test_recolouring_keeps_the_transparency_and_the_premultiplication():
    rng = np.random.default_rng(0)
    alpha = rng.integers(0, 256, (8, 8, 1))
    sprite = np.concatenate([(rng.random((8, 8, 3)) * alpha).astype(int), alpha], -1)
    for colour in COLOURS:
        result = recolour(sprite.astype(np.uint8), colour)
        assert (result[..., 3:] == alpha).all() and (result[..., :3] <= alpha).all()


@needs_font
def test_backgrounds_are_never_the_colour_of_what_stands_on_them():
    for i in range(400):
        scene = training_scene(1, i)
        assert all(thing.colour != scene.background or not thing.colour for thing in scene.things)
    scene = Scene("", (Thing("lemon"),), background="blue")
    assert (render_scene(scene)[0, 0] == BACKGROUNDS["blue"]).all()


# -- captions -------------------------------------------------------------------------------------


def phrasings(scene):
    rng = np.random.default_rng(0)
    return {scene_caption(scene, rng) for _ in range(600)}


@needs_font
def test_captions_say_what_is_shown_in_several_ways():
    blue_dog = phrasings(Scene("", (Thing("dog", "blue"),)))
    assert {"a blue dog", "blue dog", "the dog is blue", "a dog in blue"} <= blue_dog
    two_cats = phrasings(Scene("", (Thing("cat", count=2),)))
    assert two_cats == {"two cats", "2 cats", "a pair of cats", "a couple of cats"}
    assert phrasings(Scene("", (Thing("cat", count=9),))) == {"nine cats", "9 cats"}
    tiny = phrasings(Scene("", (Thing("dog", "blue", "small"),), background="yellow"))
    assert {"a small blue dog on yellow", "a tiny dog in blue, yellow background"} <= tiny
    above = Scene("", (Thing("dog"), Thing("owl")), ABOVE)
    assert {"a dog above an owl", "an owl below a dog", "a dog on top of an owl"} <= phrasings(
        above
    )
    beside = phrasings(Scene("", (Thing("dog"), Thing("owl")), BESIDE))
    assert {"a dog and an owl", "an owl to the right of a dog", "dog and an owl"} <= beside
    assert not any(p.startswith(("an owl and", "owl and", "the owl and")) for p in beside)
    things = Thing("cat", "green"), Thing("apple", "orange")
    bound = phrasings(Scene("", things, BESIDE, "yellow"))
    assert {
        "a green cat and an orange apple on yellow",
        "a green cat and an orange apple on a yellow background",
    } <= bound
    assert not any("green apple" in p or "orange cat" in p for p in bound)
    sizes = Scene("", (Thing("dog", size="big"), Thing("cat", size="small")), BESIDE)
    assert {"a big dog and a small cat", "a huge dog and a small cat"} <= phrasings(sizes)
    triple = Scene("", (Thing("dog", "blue", count=2),), background="orange")
    assert {"two blue dogs on orange", "2 blue dogs on an orange background"} <= phrasings(triple)


# -- the data set ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    from ldmref.datasets.emoji.scene_dataset import SceneDataset

    with pytest.MonkeyPatch.context() as patch:
        few = emoji_data.emoji_list()[::40]
        patch.setattr(emoji_dataset, "emoji_list", lambda: few)
        return SceneDataset(64, 5000)


@needs_font
def test_the_data_set_is_an_array_of_images_with_captions(data):
    names = len(data.names.images)
    assert data.images.shape == (5000, 3, 64, 64) and len(data.images) == 5000
    batch = data.images[np.array([0, names, 4999])]
    assert batch.shape == (3, 3, 64, 64) and batch.dtype == np.uint8
    assert np.array_equal(batch[0], data.names.images[0])
    assert np.array_equal(data.images[names : names + 2][0], batch[1])
    assert np.array_equal(batch[1].transpose(1, 2, 0), render_scene(training_scene(0, 0), 64))
    assert np.isclose(data.weights.sum(), 1) and np.isclose(data.weights[:names].sum(), 0.5)
    rng = np.random.default_rng(0)
    captions = [data.caption(i, rng) for i in range(0, 5000, 50)]
    assert all(captions) and words(captions) <= words(data.vocabulary())
    assert len(data.classes) == 5000 and data.digest() == data.digest()


@needs_font
def test_captions_by_other_odds_are_other_data(monkeypatch):
    few = emoji_data.emoji_list()[::100]
    monkeypatch.setattr(emoji_dataset, "emoji_list", lambda: few)
    first = summarize(emoji_dataset.EmojiDataset(8))
    assert first == summarize(emoji_dataset.EmojiDataset(8))
    odds = dict(emoji_dataset.CAPTIONS)
    odds["name"], odds["word"] = odds["word"], odds["name"]
    monkeypatch.setattr(emoji_dataset, "CAPTIONS", odds)
    assert first != summarize(emoji_dataset.EmojiDataset(8))


@needs_font
def test_a_data_set_without_keywords_says_so(monkeypatch, tmp_path):
    from ldmref.datasets.emoji.scene_dataset import SceneDataset

    few = emoji_data.emoji_list()[::400]
    monkeypatch.setattr(emoji_dataset, "emoji_list", lambda: few)
    keywords = tmp_path / "en.xml"
    monkeypatch.setattr(emoji_dataset, "KEYWORDS", keywords)
    (warning,) = SceneDataset(64, 50).warnings
    assert "apt-get install unicode-cldr-core" in warning
    keywords.write_text(f'<ldml><annotation cp="{few[0].text}">joy</annotation></ldml>')
    assert SceneDataset(64, 50).warnings == []


# -- the oracle -----------------------------------------------------------------------------------


@needs_font
@pytest.mark.parametrize("kind", SHARES)
def test_the_oracle_accepts_what_is_right_and_rejects_what_is_wrong(kind, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "scripts"), *sys.path])
    from composition_oracle import judge
    from evaluate_compositions import degraded, interval, scenes_and_prompts, wrong_scenes

    rng = np.random.default_rng(0)
    scenes, prompts = scenes_and_prompts(kind, 3)
    assert len(set(prompts)) == 3 and (scenes, prompts) == scenes_and_prompts(kind, 3)
    for scene in scenes:
        assert judge(render_scene(scene), scene).right
        assert judge(degraded(render_scene(scene), rng), scene).right
        for name, wrong in wrong_scenes(scene, rng):
            assert not judge(render_scene(wrong), scene).right, name
    low, high = interval(95, 100)
    assert 0.88 < low < 0.95 < high < 0.98
