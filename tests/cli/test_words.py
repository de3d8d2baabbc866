"""`ldmref words`: what the model knows, and that its examples are known."""

from __future__ import annotations

import json

import pytest

import ldmref
from ldmref.apps.cli.words import _load_tokenizer
from ldmref.errors import UsageError
from ldmref.io.prompt_notes import prompt_notes
from ldmref.models import preset

NOTES = prompt_notes(preset("emoji-128"))
EXAMPLES = tuple(NOTES.examples)


def test_the_list_is_the_vocabulary(ldm):
    tokenizer = ldmref.load().tokenizer
    row = json.loads(ldm("words", "--json").out)
    assert len(row["words"]) == len(tokenizer.tokenizer.get_vocab()) - 4 == 3240
    assert len(row["emoji"]) == 3655 and row["examples"] == list(EXAMPLES)
    listed = [*row["colours"], *row["backgrounds"], *row["numbers"], *row["sizes"], *row["places"]]
    listed += [thing[key] for thing in row["things"] for key in ("name", "plural")]
    listed += [emoji["name"] for emoji in row["emoji"]]
    for text in (*listed, *EXAMPLES):
        assert tokenizer.encode([text])[1] == [], text
    assert not any(NOTES.compositions.unseen(text) for text in EXAMPLES)


def test_for_people(ldm):
    out = ldm("words").out
    assert 'ldmref "red heart"' in out and "colours: red, orange" in out and "3,240 words" in out
    assert max(map(len, out.splitlines())) <= 100 and len(out.splitlines()) < 150


def test_one_word(ldm):
    assert "🦊  fox" in ldm("words", "fox").out and "foxes" in ldm("words", "FOX").out
    assert ldm("words", "🐶").out == "🐶  dog face\n"
    assert "skin tone" not in ldm("words", "astronaut").out
    assert "dark skin tone" in ldm("words", "astronaut: dark skin tone").out
    ran = ldm("words", "foxx")
    assert ran.code == 2 and "does not know 'foxx'" in ran.err and "did you mean 'fox'?" in ran.err


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_another_model_of_words(flags, ldm, model_folder):
    ran = ldm("words", "-m", model_folder, *flags)
    assert ran.code == 0 and "heart" in ran.out and "colours" not in ran.out


def test_models_that_read_any_text(tmp_path):
    with pytest.raises(UsageError, match="has no list of words"):
        _load_tokenizer(tmp_path, 77)
