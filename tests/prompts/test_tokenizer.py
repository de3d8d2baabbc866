"""The word tokenizer: lengths, unknown words, awkward strings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import ldmref
from ldmref.errors import CorruptModelError
from ldmref.prompts.class_labels import ClassLabelTokenizer
from ldmref.prompts.clip import add_words
from ldmref.prompts.tokenizer import PromptTokenizer, name_unknown
from ldmref.prompts.words import load_word_tokenizer, split_words, word_tokenizer

CAPTIONS = ["red heart", "red car", "keycap: #", "flag: Côte d’Ivoire", "piñata", "a 100 b"]
TOKENIZER = PromptTokenizer(word_tokenizer(CAPTIONS, 100), 6)


def words(text):
    return split_words(TOKENIZER.tokenizer, text)


def test_words_are_lower_case_without_accents():
    assert words("Flag: Côte d’Ivoire") == ["flag", "cote", "d", "ivoire"]
    assert words("up-side,down\tKEYCAP: #") == ["up", "side", "down", "keycap", "#"]


def test_ids_are_start_words_end_padding():
    ids, warnings = TOKENIZER.encode(["red heart", ""])
    assert ids.shape == (2, 6) and ids.dtype == np.int64 and not warnings
    assert ids[0, 0] == ids[1, 0] == 1 and ids[0, 3] == ids[1, 1] == 2
    assert (ids[0, 4:] == 0).all() and (ids[1, 2:] == 0).all()


def test_case_accents_and_punctuation_do_not_matter():
    ids, _ = TOKENIZER.encode(["Pinata", "piñata", "PIÑATA!?", "pin\u0303ata"])
    assert (ids[0] == ids[1]).all() and (ids[0] == ids[3]).all() and ids[0, 1] == ids[2, 1]


def test_the_most_frequent_words_are_kept():
    small = PromptTokenizer(word_tokenizer(CAPTIONS, 5), 6)
    assert small.tokenizer.token_to_id("red") == 4 and small.tokenizer.get_vocab_size() == 5


def test_truncation_keeps_the_end_token_and_lists_the_lost_words():
    ids, warnings = TOKENIZER.encode(["red car red car heart piñata"])
    assert ids[0, -1] == 2 and ids[0, 0] == 1
    assert len(warnings) == 1 and warnings[0].endswith("left out: heart piñata")


def test_unknown_words_are_named_once():
    _, warnings = TOKENIZER.encode(["Zebra red zebra Zebra"])
    assert warnings == ["words the model never saw: Zebra, zebra"]


def test_a_misspelt_word_is_named_with_the_one_that_is_meant():
    _, [warning] = TOKENIZER.encode(["Haert zyxw carr"])
    listed = warning.split(": ", 1)[1].split(", ")
    assert listed == ["Haert (did you mean heart?)", "zyxw", "carr (did you mean car?)"]


def test_the_first_unknown_words_are_explained():
    """Each is compared with the whole vocabulary, so a long prompt would take long."""
    words = name_unknown(["hert", "x" * 2000, "heert", "hearrt", "haert"], ["heart"])
    assert [part.endswith("heart?)") for part in words.split(", ")] == [
        True,
        False,
        True,
        *[False] * 2,
    ]


@given(st.text(max_size=60))
def test_any_text_gives_ids_of_the_right_shape(text):
    ids, warnings = TOKENIZER.encode([text])
    assert ids.shape == (1, 6) and ids[0, 0] == 1 and 2 in ids[0]
    assert ids.max() < TOKENIZER.tokenizer.get_vocab_size() and ids.min() >= 0
    assert all("\n" not in w or "\n" in text for w in warnings)


@pytest.mark.parametrize("text", ["<end>", "<pad> red", "<start><unknown>"])
def test_special_tokens_in_a_prompt_are_text(text):
    ids, _ = TOKENIZER.encode([text])
    plain = TOKENIZER.encode([text.replace("<", " ").replace(">", " ")])[0]
    assert (ids == plain).all()


def test_saved_and_loaded_it_is_the_same(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(TOKENIZER.tokenizer.to_str(), "utf-8")
    again = load_word_tokenizer(path, 6)
    assert (again.encode(CAPTIONS)[0] == TOKENIZER.encode(CAPTIONS)[0]).all()


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_refused(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(CorruptModelError):
        load_word_tokenizer(tmp_path / "t.json", 6)


def test_a_tokenizer_without_our_special_tokens_is_refused():
    from tokenizers import models

    with pytest.raises(CorruptModelError, match="no '<start>' token"):
        PromptTokenizer(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), 6)


def test_added_words_are_saved_and_loaded(tmp_path):
    size = TOKENIZER.tokenizer.get_vocab_size()
    extended = Tokenizer.from_str(TOKENIZER.tokenizer.to_str())
    add_words(extended, ["<fox>", "<fox>_1", "owl"])
    path = tmp_path / "tokenizer.json"
    path.write_text(extended.to_str(), "utf-8")
    again = load_word_tokenizer(path, 6)
    assert again.tokenizer.to_str() == extended.to_str()
    assert again.encode(["a <FOX>"])[0][0, 1:5].tolist() == [
        TOKENIZER.tokenizer.token_to_id("a"),
        size,
        size + 1,
        2,
    ]
    data = json.loads(extended.to_str())
    data["added_tokens"][0]["id"] = size + 9
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(CorruptModelError, match="unexpected ids"):
        load_word_tokenizer(path, 6)


@pytest.mark.parametrize("text", ["red heart", "", "a 100 b"])
def test_a_text_is_one_prompt(text):
    """A str is a sequence of letters, and was once read as that many prompts."""
    assert TOKENIZER.tokenize(text).ids.tolist() == TOKENIZER.tokenize([text]).ids.tolist()
    assert TOKENIZER.encode(text)[0].tolist() == TOKENIZER.encode([text])[0].tolist()


def test_a_model_reads_a_text_as_one_prompt():
    model = ldmref.random_model("tiny")
    assert model.tokenize("cat").ids.shape == model.tokenize(["cat"]).ids.shape
    assert np.array_equal(model.encode_text("cat"), model.encode_text(["cat"]))


def test_a_number_is_one_class():
    labels = ClassLabelTokenizer(100)
    assert labels.tokenize("12").ids.tolist() == labels.tokenize(["12"]).ids.tolist() == [[[12]]]
