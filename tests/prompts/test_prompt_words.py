"""The words of a prompt know their tokens."""

from __future__ import annotations

import pytest

from ldmref.prompts.clip import clip_tokenizer
from ldmref.prompts.prompt_words import find_words
from ldmref.prompts.tokenizer import PromptOptions, PromptTokenizer
from ldmref.prompts.words import word_tokenizer
from ldmref.testing.clip import awkward_strings, small_vocabulary

CLIP = clip_tokenizer(small_vocabulary())
WORDS = PromptTokenizer(word_tokenizer(["a red cat and a blue dog face"], 64), length=8)


def texts(tokenizer, prompt, **options):
    return [word.text for word in find_words(tokenizer, prompt, PromptOptions(**options))]


def test_byte_pairs_are_joined_to_words():
    words = find_words(CLIP, "Photographs of a zebra, it's")
    assert [w.text for w in words] == ["Photographs", "of", "a", "zebra", ",", "it", "'s"]
    zebra = words[3].tokens
    assert len(zebra) > 1 and zebra == tuple(range(zebra[0], zebra[0] + len(zebra)))


@pytest.mark.parametrize("tokenizer", [CLIP, WORDS], ids=["clip", "words"])
@pytest.mark.parametrize("long_prompts", ["truncate", "chunk"])
def test_every_token_that_is_read_belongs_to_one_word(tokenizer, long_prompts):
    options = PromptOptions(long_prompts)
    for text in awkward_strings():
        ids = tokenizer.tokenize([text], options).ids[0]
        flat = ids.ravel().tolist()
        used = [i for word in find_words(tokenizer, text, options) for i in word.tokens]
        assert used == sorted({*used})
        expected = []
        for chunk, row in enumerate(tokenizer.tokenize_one(text, options).chunks):
            count = sum(len(group.ids) for group in row)
            expected += range(chunk * tokenizer.length + 1, chunk * tokenizer.length + 1 + count)
        assert used == expected
        assert all(flat[i] == id for i, id in zip(used, (flat[j] for j in expected), strict=True))


def test_a_word_that_occurs_twice_is_two_words():
    words = find_words(WORDS, "a red cat and a blue dog")  # eight words, of which six fit
    assert [w.text for w in words] == ["a", "red", "cat", "and", "a", "blue"]
    assert words[0].tokens == (1,) and words[4].tokens == (5,)


def test_further_chunks_have_positions_of_their_own():
    words = find_words(WORDS, "a red cat and a blue dog", PromptOptions("chunk"))
    assert words[-1].text == "dog" and words[-1].tokens == (8 + 1,)


def test_brackets_of_weights_are_not_words():
    assert texts(WORDS, "a (red:1.5) [cat]", prompt_weights="a1111") == ["a", "red", "cat"]


def test_an_emoji_is_its_name():
    assert texts(WORDS, "red 🐶") == ["red", "dog", "face"]


def test_no_words():
    assert texts(CLIP, "") == [] and texts(WORDS, " ... ") == []
