"""Warnings about prompts that join what the embedded model has never seen joined."""

from __future__ import annotations

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.datasets.emoji import captions
from ldmref.datasets.emoji.colours import BACKGROUNDS, COLOURS
from ldmref.datasets.emoji.nouns import nouns
from ldmref.datasets.emoji.scene import ABOVE, BESIDE, Scene, Thing
from ldmref.io.prompt_notes import prompt_notes
from ldmref.models import preset
from ldmref.prompts.emoji import named_emoji

WORDS = prompt_notes(preset("emoji-128")).compositions


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("robot holding a flower", ["robot", "holding", "flower"]),
        ("cat wearing a hat", ["cat", "wearing", "hat"]),
        ("smiling dragon wearing sunglasses", ["smiling", "dragon", "wearing", "sunglasses"]),
        ("a smiling dragon", ["smiling", "dragon"]),
        ("🤖 holding 🌹", ["robot", "holding", "rose"]),
        ("a dog and a smiling dragon on red", ["smiling", "dragon"]),
        ("three cats riding bicycles", ["cat", "bicycle"]),
    ],
)
def test_what_was_never_joined(prompt, words):
    said = WORDS.unseen(prompt)
    assert said.startswith("no emoji that the model has seen has ")
    assert ("has both" if len(words) == 2 else "has all of") in said
    assert [word for word in said.split('"')[1::2]] == words


@pytest.mark.parametrize(
    "prompt", ["a dog, a cat and a bird", "🐶🐱🐦", "a fox above a car on a bed and a tree"]
)
def test_too_many_things(prompt):
    said = WORDS.unseen(prompt)
    assert "at most 2" in said or "no emoji" in said


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "dog",
        "happy birthday",
        "person wearing turban",
        "people holding hands",
        "three mice",
        "hot dogs",
        "a dog in blue",
        "s x heart",
        "0 hearts",
        "a dog's",
        "xyzzy holding frobnicators",
        "the houses are red",
    ],
)
def test_what_it_can_do_is_not_warned_about(prompt):
    assert WORDS.unseen(prompt) == ""


def test_no_name_is_warned_about():
    for emoji in named_emoji():
        for prompt in (emoji.name, f"a {emoji.name}", emoji.text):
            assert WORDS.unseen(prompt) == "", prompt


def test_no_caption_of_training_is_warned_about():
    """2,000 random scenes of every kind, in the words of training."""
    rng = np.random.default_rng(0)
    pool = nouns()
    colours = ["", *COLOURS]

    def colour():
        return str(rng.choice(colours))

    for i in range(2000):
        first, second = (pool[int(n)] for n in rng.integers(len(pool), size=2))
        size = str(rng.choice(["", *captions.SIZES]))
        if i % 2:
            things = (Thing(first.singular, colour(), size), Thing(second.singular, colour()))
        else:
            count = int(rng.integers(1, 10)) if first.plural else 1
            things = (Thing(first.singular, colour(), size, count),)
        background = str(rng.choice(["", *BACKGROUNDS]))
        scene = Scene("any", things, (BESIDE, ABOVE)[i // 2 % 2], background)
        caption = captions.scene_caption(scene, rng)
        assert WORDS.unseen(caption) == "", caption


def test_the_words_of_scenes_are_those_of_training():
    said = {*captions.BESIDE_PHRASES, *captions.ABOVE_PHRASES}
    joining = {" ".join(p.replace("{0}", "").replace("{1}", "").split()) for p in said}
    assert joining == {*WORDS.relations}
    names = [*captions.NUMBERS.values(), *captions.SIZES.values(), COLOURS, BACKGROUNDS]
    assert {word for each in names for name in each for word in name.split()} <= {*WORDS.attributes}


def test_the_embedded_model_warns_and_others_do_not():
    config = ldmref.load().config
    assert prompt_notes(config) is not None and prompt_notes(preset("sd15")) is None
    model = ldmref.random_model("tiny", backend="numpy")
    r = modes.txt2img(model, "a smiling dragon", steps=1, seed=1)
    assert not any("no emoji that" in line for line in r.warnings)
    r = modes.txt2img(ldmref.load(), "a smiling dragon", steps=1, seed=1)
    assert any("no emoji that" in line for line in r.warnings)
