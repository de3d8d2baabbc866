"""Emoji in prompts, against the list itself."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ldmref
from ldmref.prompts.clip import clip_tokenizer
from ldmref.prompts.emoji import SELECTOR, find_unnamed_symbols, named_emoji, with_emoji_names
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.prompts.words import word_tokenizer
from ldmref.testing.clip import small_vocabulary


def test_every_emoji_is_its_name_with_and_without_selectors():
    assert len(named_emoji()) == 3655 == len({emoji.text for emoji in named_emoji()})
    for emoji in named_emoji():
        assert with_emoji_names(emoji.text) == emoji.name
        assert with_emoji_names(emoji.text.replace(SELECTOR, "")) == emoji.name
        assert with_emoji_names(f"a {emoji.text} on red") == f"a {emoji.name} on red"


def test_the_list_is_that_of_unicode_15():
    """The digest of "characters name" lines, made from Unicode's emoji-test.txt by awk."""
    lines = "".join(f"{emoji.text} {emoji.name}\n" for emoji in named_emoji())
    assert hashlib.sha256(lines.encode()).hexdigest() == DIGEST


DIGEST = "93db69aac157320658c73e4983e6db3411657468f203ebd2d68a19b06f4836a3"


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("🐶🐱", "dog face and cat face"),
        ("🐶 🐱 on red", "dog face and cat face on red"),
        ("🐶, 🐱", "dog face , cat face"),
        ("two🐱", "two cat face"),
        ("👩🏿‍🚀", "woman astronaut: dark skin tone"),
        ("👩🏿", "woman: dark skin tone"),
        ("🏴󠁧󠁢󠁥󠁮󠁧󠁿", "flag: England"),
        ("1️⃣ # 1", "keycap: 1 # 1"),
        ("café  au lait", "café  au lait"),
        ("", ""),
    ],
)
def test_prompts(prompt, read):
    assert with_emoji_names(prompt) == read


@given(st.lists(st.sampled_from([emoji.text for emoji in named_emoji()]), min_size=1, max_size=4))
def test_separate_emoji_are_separate_names(texts):
    names = {emoji.text: emoji.name for emoji in named_emoji()}
    assert with_emoji_names(" x ".join(texts)) == " x ".join(names[text] for text in texts)


@given(st.text())
def test_text_without_emoji_is_left_alone(text):
    read = with_emoji_names(text)
    known = {emoji.text.replace(SELECTOR, "") for emoji in named_emoji()}
    if not any(emoji in text.replace(SELECTOR, "") for emoji in known):
        assert read == text
    assert with_emoji_names(read) == read


def test_the_embedded_model_reads_them_and_names_what_it_does_not_know():
    tokenizer = ldmref.load().tokenizer
    for emoji in named_emoji():
        ids, warnings = tokenizer.encode([emoji.text])
        named, expected = tokenizer.encode([emoji.name])
        assert (ids == named).all() and warnings == expected
    assert tokenizer.encode(["🐶🏻 \U0001fae9"])[1] == ["words the model never saw: 🏻, \U0001fae9"]
    assert find_unnamed_symbols("🐶 red #1 ¨") == ["¨"]


def test_a_vocabulary_of_captions_with_emoji_has_their_names():
    tokenizer = PromptTokenizer(word_tokenizer(["a 🐶", "café"], 100), 8)
    assert tokenizer.encode(["dog face 🐶"])[1] == []


def test_clip_reads_emoji_as_they_are():
    tokenizer = clip_tokenizer(small_vocabulary(), 8)
    assert tokenizer.clean is not with_emoji_names and not tokenizer.reads_words
    assert tokenizer.encode(["🐶"])[1] == []
