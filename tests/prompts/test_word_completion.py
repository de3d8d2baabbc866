"""Words that a vocabulary has as one token, for each kind of tokenizer."""

from __future__ import annotations

from tokenizers import Tokenizer, models

import ldmref
from ldmref.prompts.completion import complete_word, list_words, read_word


def test_words_of_the_embedded_model_are_tokens_of_their_own():
    tokenizer = ldmref.load().tokenizer
    words = list_words(tokenizer)
    assert len(words) > 500 and words[:3] == ["skin", "tone", "medium"]  # of names of emoji
    for word in words[:200]:
        assert len(tokenizer.tokenizer.encode(word, add_special_tokens=False).ids) == 1
    assert {"heart", "cat"} <= {*words} and not any("<" in word for word in words)
    assert complete_word(words, "hea")[0] == "heart"


def test_byte_pair_encoding_marks_the_end_of_a_word():
    vocabulary = {"c": 0, "a": 1, "ca": 2, "cat</w>": 3, "t</w>": 4, "\u00e9t</w>": 5, "!</w>": 6}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], end_of_word_suffix="</w>"))
    found = {token: read_word(tokenizer, token) for token in vocabulary}
    assert found["cat</w>"] == "cat" and found["ca"] == found["\u00e9t</w>"] == ""


def test_other_tokenizers_mark_the_beginning_or_the_inside():
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("\u2581cat", -1.0), ("s", -2.0)], 0))
    assert [read_word(unigram, token) for token in ("\u2581cat", "s")] == ["cat", ""]
    piece = Tokenizer(models.WordPiece({"cat": 0, "##s": 1}, unk_token="cat"))
    assert [read_word(piece, token) for token in ("cat", "##s")] == ["cat", ""]


def test_a_completion_is_longer_and_keeps_the_order():
    words = ["red", "rest", "cat", "re", "reindeer"]
    assert complete_word(words, "Re") == ["red", "rest", "reindeer"]
    assert complete_word(words, "re", most=1) == ["red"]
    assert complete_word(words, "red") == complete_word(words, "x") == []
